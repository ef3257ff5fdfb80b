"""Parameters to one file and back, and what is said about files that are not such a file."""

import errno
import os

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from diffusion_jax.interop import safetensors_file
from diffusion_jax.interop.safetensors_file import load_metadata, load_params, save_params

RNG = np.random.default_rng(0)
PARAMS = {
    "unet": {"down_0": {"conv": {"kernel": RNG.standard_normal((3, 3, 2, 4)).astype(np.float32)}}},
    "text_encoder": {"scale": RNG.standard_normal(5).astype(np.float32), "empty": np.zeros((0, 3), np.float32)},
    "gain": np.float32(1.25).reshape(()),
}


def flat(params, prefix=""):
    for name, value in params.items():
        yield from flat(value, f"{prefix}{name}/") if isinstance(value, dict) else [(prefix + name, value)]


def assert_equal(found, expected):
    found, expected = dict(flat(found)), dict(flat(expected))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == np.float32, name
        assert found[name].shape == value.shape, name
        np.testing.assert_array_equal(found[name], value)


def test_float32_comes_back_bit_for_bit(tmp_path):
    save_params(tmp_path / "a.safetensors", PARAMS)
    assert_equal(load_params(tmp_path / "a.safetensors"), PARAMS)
    assert os.listdir(tmp_path) == ["a.safetensors"]


def test_float16_is_half_the_size_and_comes_back_rounded_to_float32(tmp_path):
    params = {"a": {"w": RNG.standard_normal((64, 64)).astype(np.float32)}}
    for dtype in ("float32", "float16"):
        save_params(tmp_path / dtype, params, dtype=dtype)
    assert (tmp_path / "float16").stat().st_size < 0.52 * (tmp_path / "float32").stat().st_size
    assert_equal(load_params(tmp_path / "float16"), {"a": {"w": params["a"]["w"].astype(np.float16)}})


@pytest.mark.parametrize(
    "array",
    [
        jnp.arange(6.0).reshape(2, 3),
        jnp.arange(6, dtype=jnp.bfloat16),
        np.arange(6.0).reshape(2, 3).T,  # not contiguous: the library would store it in the wrong order
        np.arange(6.0)[::2],
        np.arange(6, dtype=">f4"),
    ],
    ids=["jax", "bfloat16", "transposed", "strided", "big-endian"],
)
def test_any_floating_point_array_is_stored_as_it_reads(tmp_path, array):
    save_params(tmp_path / "a", {"w": array})
    assert_equal(load_params(tmp_path / "a"), {"w": np.asarray(array).astype(np.float32)})


def test_the_library_reads_the_file(tmp_path):
    save_params(tmp_path / "a", PARAMS, {"x": "1"})
    found = safetensors.numpy.load_file(tmp_path / "a")
    assert found.keys() == {"unet/down_0/conv/kernel", "text_encoder/scale", "text_encoder/empty", "gain"}
    np.testing.assert_array_equal(found["unet/down_0/conv/kernel"], PARAMS["unet"]["down_0"]["conv"]["kernel"])


def test_files_of_the_library_are_read(tmp_path):
    wide = RNG.standard_normal((2, 3)).astype(np.float32)
    tensors = {"a/w": wide, "a/h": wide.astype(np.float16), "b.dotted": wide.astype(ml_dtypes.bfloat16)}
    safetensors.numpy.save_file(tensors, tmp_path / "a")
    expected = {"a": {"w": wide, "h": tensors["a/h"]}, "b.dotted": tensors["b.dotted"].astype(np.float32)}
    assert_equal(load_params(tmp_path / "a"), expected)
    assert load_metadata(tmp_path / "a") == {}


def test_metadata_and_the_same_bytes_whatever_the_order(tmp_path):
    metadata = {f"key {i}": f"value ♥ {i}" for i in range(9)}
    save_params(tmp_path / "a", PARAMS, metadata)
    save_params(tmp_path / "b", dict(reversed(PARAMS.items())), dict(reversed(metadata.items())))
    assert load_metadata(tmp_path / "a") == metadata
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    ("params", "dtype", "message"),
    [
        ({"a": np.ones(2)}, "int8", "float32 or float16, not int8"),
        ({"a": {"w": np.ones(2, np.int32)}}, "float32", "'a/w' is int32"),
        ({"a": {"w": np.array([1.0, 7e4])}}, "float16", "'a/w' exceeds the range of float16"),
        ({"a/b": np.ones(2)}, "float32", "without slashes"),
        ({"a": {"": np.ones(2)}}, "float32", "without slashes"),
        ({"a": {3: np.ones(2)}}, "float32", "without slashes"),
        ({"__metadata__": np.ones(2)}, "float32", "without slashes"),
    ],
)
def test_what_the_file_cannot_hold_is_refused_and_the_old_file_stays(tmp_path, params, dtype, message):
    save_params(tmp_path / "a", PARAMS)
    with pytest.raises(ValueError, match=message):
        save_params(tmp_path / "a", params, dtype=dtype)
    assert_equal(load_params(tmp_path / "a"), PARAMS)
    assert os.listdir(tmp_path) == ["a"]


def test_metadata_that_is_not_text_is_refused(tmp_path):
    with pytest.raises(ValueError, match="text by name"):
        save_params(tmp_path / "a", PARAMS, {"steps": 3})


def test_infinities_that_were_there_before_are_kept(tmp_path):
    save_params(tmp_path / "a", {"w": np.array([np.inf, np.nan, 1.0])}, dtype="float16")
    np.testing.assert_array_equal(load_params(tmp_path / "a")["w"], np.array([np.inf, np.nan, 1.0], np.float32))


def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    save_params(tmp_path / "a", PARAMS)

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(safetensors_file.os, "fsync", full)
    with pytest.raises(OSError, match=r"could not save parameters: No space left on device.*a'"):
        save_params(tmp_path / "a", {"w": np.ones(3)})
    assert_equal(load_params(tmp_path / "a"), PARAMS)
    assert os.listdir(tmp_path) == ["a"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"could not save parameters.*file"):
        save_params(tmp_path / "file" / "a", PARAMS)


@pytest.mark.parametrize("load", [load_params, load_metadata])
def test_a_missing_file_is_named(tmp_path, load):
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(FileNotFoundError, match="no parameters at"):
            load(path)


@pytest.mark.parametrize("load", [load_params, load_metadata])
def test_truncated_and_foreign_files_are_one_clear_line(tmp_path, load):
    save_params(tmp_path / "whole", PARAMS)
    whole = (tmp_path / "whole").read_bytes()
    contents = [whole[:end] for end in (0, 5, 8, 40, len(whole) // 2, len(whole) - 1)]
    contents += [whole + b"more", b"PK\x03\x04" + bytes(99), b"\x80\x04\x95 a pickle", b"\xff" * 64]
    for content in contents:
        (tmp_path / "bad").write_bytes(content)
        with pytest.raises(ValueError, match="truncated or not a safetensors file") as caught:
            load(tmp_path / "bad")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"a": np.ones(2, np.int64)}, "'a' is I64"),
        ({"a": np.ones(2, np.float32), "a/b": np.ones(2, np.float32)}, "inside another|both a tensor"),
        ({"a/b": np.ones(2, np.float32), "a/b/c": np.ones(3, np.float32)}, "inside another|both a tensor"),
    ],
)
def test_files_that_are_no_parameters_are_refused(tmp_path, tensors, message):
    safetensors.numpy.save_file(tensors, tmp_path / "a")
    with pytest.raises(ValueError, match=message):
        load_params(tmp_path / "a")
