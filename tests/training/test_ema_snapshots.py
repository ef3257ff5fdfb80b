"""Averages to files and back, and what is said about files that are no such thing."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open

from diffusion_jax.interop.safetensors_file import save_params
from diffusion_jax.training import ema_snapshots

LENGTHS = (0.05, 0.1)


def tree(value):
    rng = np.random.default_rng(int(value))
    kernel = rng.standard_normal((3, 4)).astype(np.float32)
    return {"unet": {"conv": {"kernel": kernel}, "gain": np.float32(value).reshape(())}}


def test_averages_come_back_bit_for_bit_and_are_listed_in_order(tmp_path):
    for step in (1000, 20, 3):
        ema_snapshots.save(tmp_path, step, [tree(step), tree(-step + 2000)], LENGTHS)
    found = ema_snapshots.listed(tmp_path)
    assert [snapshot.step for snapshot in found] == [3, 20, 1000]
    assert found[0].path.name == "000000003.safetensors"
    assert all(snapshot.sigma_rels == LENGTHS for snapshot in found)
    for number, value in enumerate((1000, 1000)):
        stored = dict(ema_snapshots.tensors(found[2], number))
        assert stored.keys() == {"unet/conv/kernel", "unet/gain"}
        np.testing.assert_array_equal(stored["unet/conv/kernel"], tree(value)["unet"]["conv"]["kernel"])
        assert stored["unet/gain"] == 1000
        assert all(tensor.dtype == np.float64 for tensor in stored.values())


def test_of_more_than_ten_averages_each_is_its_own(tmp_path):
    lengths = [0.01 * (n + 1) for n in range(12)]
    ema_snapshots.save(tmp_path, 5, [{"w": np.full(2, float(n))} for n in range(12)], lengths)
    (snapshot,) = ema_snapshots.listed(tmp_path)
    assert [dict(ema_snapshots.tensors(snapshot, n))["w"][0] for n in range(12)] == list(range(12))


def test_arrays_of_devices_are_stored_and_half_of_the_bytes_are_enough(tmp_path):
    average = {"w": jnp.linspace(-1, 1, 10_000)}
    whole = ema_snapshots.save(tmp_path / "a", 1, [average], [0.1])
    half = ema_snapshots.save(tmp_path / "b", 1, [average], [0.1], dtype="float16")
    assert half.stat().st_size < 0.52 * whole.stat().st_size
    (found,) = ema_snapshots.listed(tmp_path / "b")
    rounded = np.asarray(average["w"]).astype(np.float16)
    np.testing.assert_array_equal(dict(ema_snapshots.tensors(found, 0))["w"], rounded)


def test_a_full_disk_leaves_the_old_snapshot_and_no_other(tmp_path, file_size_limit):
    path = ema_snapshots.save(tmp_path, 7, [tree(1)], [0.1])
    before = path.read_bytes()
    with file_size_limit(1000), pytest.raises(OSError, match="could not save parameters") as caught:
        ema_snapshots.save(tmp_path, 7, [{"w": np.ones(10_000)}], [0.1])
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("step", "count", "lengths", "message"),
    [
        (0, 1, [0.1], "no snapshot of 1 averages of 1 lengths after 0 updates"),
        (5, 1, [0.1, 0.05], "no snapshot of 1 averages of 2 lengths"),
        (5, 2, [0.1, 0.1], "there twice"),
        (5, 1, [0.4], r"sigma_rel is 0\.4"),
    ],
)
def test_what_makes_no_sense_is_not_saved(tmp_path, step, count, lengths, message):
    with pytest.raises(ValueError, match=message):
        ema_snapshots.save(tmp_path, step, [tree(1)] * count, lengths)
    assert not list(tmp_path.iterdir())


def test_none_is_told_and_other_files_are_none(tmp_path):
    (tmp_path / "notes.txt").touch()
    (tmp_path / "copy.safetensors").write_bytes(b"not ours")
    (tmp_path / ".000000005.safetensors.99").write_bytes(b"half-written by a process that was killed")
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match=r"no snapshots of averages in .*ema_lengths"):
            ema_snapshots.listed(folder)


@pytest.mark.parametrize("keep", [0, 7, 60, -1])
def test_a_truncated_snapshot_is_named_in_one_line(tmp_path, keep):
    path = ema_snapshots.save(tmp_path, 7, [tree(1)], [0.1])
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"000000007\.safetensors is truncated") as caught:
        ema_snapshots.listed(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "about",
    [
        {},
        {"step": "7"},
        {"step": "seven", "sigma_rels": "[0.1]"},
        {"step": "7", "sigma_rels": "0.1"},
        {"step": "7", "sigma_rels": "[0.1"},
        {"step": "7", "sigma_rels": "[0.5]"},
        {"step": "7", "sigma_rels": json.dumps([None])},
    ],
)
def test_a_file_of_other_parameters_is_named(tmp_path, about):
    save_params(tmp_path / "000000007.safetensors", {"w": np.ones(2)}, about)
    with pytest.raises(ValueError, match=r"000000007\.safetensors is no snapshot of averages"):
        ema_snapshots.listed(tmp_path)


def test_a_snapshot_under_another_name_is_told(tmp_path):
    path = ema_snapshots.save(tmp_path, 7, [tree(1)], [0.1])
    path.rename(tmp_path / "000000008.safetensors")
    with pytest.raises(ValueError, match="says that it is of step 7"):
        ema_snapshots.listed(tmp_path)


def test_what_is_not_finite_is_named(tmp_path):
    ema_snapshots.save(tmp_path, 7, [{"a": np.ones(2), "b": np.array([1, np.nan])}], [0.1])
    (snapshot,) = ema_snapshots.listed(tmp_path)
    with pytest.raises(ValueError, match=r"000000007.*'0/b' is not finite"):
        list(ema_snapshots.tensors(snapshot, 0))


def test_snapshots_of_later_steps_are_forgotten(tmp_path):
    for step in (10, 20, 30):
        ema_snapshots.save(tmp_path, step, [tree(step)], [0.1])
    (tmp_path / "notes.txt").touch()
    assert ema_snapshots.forget_after(tmp_path, 20) == 1
    assert [snapshot.step for snapshot in ema_snapshots.listed(tmp_path)] == [10, 20]
    assert ema_snapshots.forget_after(tmp_path, 20) == 0
    assert ema_snapshots.forget_after(tmp_path / "nowhere", 0) == 0
    assert len(list(tmp_path.iterdir())) == 3


def test_the_metadata_are_plain_text_for_any_reader(tmp_path):
    path = ema_snapshots.save(tmp_path, 7, [tree(1), tree(2)], LENGTHS)
    with safe_open(path, framework="numpy") as file:
        assert file.metadata() == {"step": "7", "sigma_rels": "[0.05, 0.1]"}
        assert set(file.keys()) == {f"{n}/unet/{name}" for n in (0, 1) for name in ("conv/kernel", "gain")}
