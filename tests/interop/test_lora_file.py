"""Factors to files and back, by peft's names and diffusers', and what is said about files that do not fit."""

import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from diffusion_jax.interop import bert_layout, clip_layout, t5_layout
from diffusion_jax.interop.lora_config import alpha_of
from diffusion_jax.interop.lora_file import Adapter, dotted, load_lora, save_diffusers, save_peft


def drawn(*shape):
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


PARAMS = {"stem": {"kernel": drawn(3, 3, 4, 8), "bias": drawn(8)}, "out": {"q": {"kernel": drawn(8, 6)}}}
LORA = {
    "stem": {"kernel": {"down": jnp.asarray(drawn(3, 3, 4, 2)), "up": jnp.asarray(drawn(2, 8))}},
    "out": {"q": {"kernel": {"down": jnp.asarray(drawn(8, 2)), "up": jnp.asarray(drawn(2, 6))}}},
}
A, B = drawn(2, 8), drawn(6, 2)  # of out.q, as PyTorch has them
Q = {"out.q.lora_A.weight": A, "out.q.lora_B.weight": B}


def assert_same(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def saved(folder, tensors, metadata=None, name="lora.safetensors"):
    safetensors.numpy.save_file(tensors, folder / name, metadata)
    return folder / name


def told(**config):
    return {"lora_adapter_metadata": json.dumps(config)}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_folder_of_peft_comes_back(tmp_path, dtype):
    save_peft(tmp_path, Adapter(LORA, 3.5), dtype=dtype)
    assert sorted(os.listdir(tmp_path)) == ["adapter_config.json", "adapter_model.safetensors"]
    found = load_lora(tmp_path, PARAMS)
    assert found.alpha == 3.5
    assert_same(found.lora, jax.tree.map(lambda leaf: np.asarray(leaf, dtype), LORA))
    assert {leaf.dtype for leaf in jax.tree.leaves(found.lora)} == {jnp.dtype("float32")}


def test_the_names_and_shapes_are_those_of_peft(tmp_path):
    save_peft(tmp_path, Adapter(LORA, 4.0))
    tensors = safetensors.numpy.load_file(tmp_path / "adapter_model.safetensors")
    assert {name: tensor.shape for name, tensor in tensors.items()} == {
        "base_model.model.stem.lora_A.weight": (2, 4, 3, 3),
        "base_model.model.stem.lora_B.weight": (8, 2, 1, 1),
        "base_model.model.out.q.lora_A.weight": (2, 8),
        "base_model.model.out.q.lora_B.weight": (6, 2),
    }
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["target_modules"]) == (2, 4, ["out.q", "stem"])


def test_several_networks_in_one_file_of_diffusers(tmp_path):
    other = {"q": {"kernel": {"down": jnp.asarray(drawn(5, 1)), "up": jnp.asarray(drawn(1, 5))}}}
    save_diffusers(tmp_path, {"unet": (Adapter(LORA, 4.0), dotted), "text_encoder": (Adapter(other, 0.5), dotted)})
    assert os.listdir(tmp_path) == ["pytorch_lora_weights.safetensors"]
    for path in (tmp_path, tmp_path / "pytorch_lora_weights.safetensors"):
        assert_same(load_lora(path, PARAMS, prefix="unet"), Adapter(LORA, 4.0))
        found = load_lora(path, {"q": {"kernel": drawn(5, 5)}}, prefix="text_encoder")
        assert_same(found, Adapter(other, 0.5))


def test_several_ranks_come_back(tmp_path):
    mixed = LORA | {"out": {"q": {"kernel": {"down": jnp.asarray(drawn(8, 5)), "up": jnp.asarray(drawn(5, 6))}}}}
    save_peft(tmp_path, Adapter(mixed, 4.0))
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["rank_pattern"]) in [(2, {r"^out\.q": 5}), (5, {"^stem": 2})]
    assert_same(load_lora(tmp_path, PARAMS), Adapter(mixed, 4.0))


@pytest.mark.parametrize(
    "names",
    [
        ("lora_A", "lora_B"),
        ("lora.down", "lora.up"),
        ("lora_linear_layer.down", "lora_linear_layer.up"),
    ],
)
def test_other_names_of_the_factors(tmp_path, names):
    tensors = {f"unet.out.q.{name}.weight": value for name, value in zip(names, (A, B), strict=True)}
    found = load_lora(saved(tmp_path, tensors | {"vae.conv.weight": A}), PARAMS, prefix="unet")
    assert found.alpha == 2.0  # nothing is said: the rank, so that the factors are added as they are
    np.testing.assert_array_equal(found.lora["out"]["q"]["kernel"]["down"], A.T)
    np.testing.assert_array_equal(found.lora["out"]["q"]["kernel"]["up"], B.T)


STEM = {"stem.lora_A.weight": drawn(1, 4, 3, 3), "stem.lora_B.weight": drawn(8, 1, 1, 1)}


@pytest.mark.parametrize(
    ("tensors", "config", "scales"),  # of out.q (rank 2) and of stem (rank 1)
    [
        ({}, {}, (1, 1)),
        ({}, {"r": 2, "lora_alpha": 6}, (3, 6)),
        ({}, {"r": 2, "lora_alpha": 6, "alpha_pattern": {"q": 1}}, (0.5, 6)),
        ({}, {"r": 2, "lora_alpha": 6, "alpha_pattern": {"out.q": 1, "st.*": 2}}, (0.5, 2)),
        ({}, {"r": 2, "lora_alpha": 6, "alpha_pattern": {"tem": 1}}, (3, 6)),
        ({}, {"r": 2, "lora_alpha": 6, "use_rslora": True}, (6 / 2**0.5, 6)),
        ({"out.q.alpha": np.float32(4)}, {}, (2, 1)),
        ({"out.q.alpha": np.float16(0), "stem.alpha": np.float32(0)}, {}, (0, 0)),
    ],
)
def test_what_a_file_says_of_its_scale(tmp_path, tensors, config, scales):
    tensors = {name: np.asarray(value) for name, value in tensors.items()}
    found = load_lora(saved(tmp_path, Q | STEM | tensors, told(**config)), PARAMS)
    for (path, up), scale in zip((("out/q", B), ("stem", STEM["stem.lora_B.weight"][..., 0, 0])), scales, strict=True):
        factors = flatten_dict(found.lora, sep="/")
        rank = factors[f"{path}/kernel/up"].shape[0]
        np.testing.assert_allclose(found.alpha / rank * factors[f"{path}/kernel/up"], scale * up.T, rtol=1e-6)


def test_the_first_pattern_that_fits_counts():
    config = {"lora_alpha": 8, "alpha_pattern": {"^a.q": 1, "q": 2, "a.v": 3}}
    assert [alpha_of(config, name, 4) for name in ("a.q", "b.a.q", "b.a.v", "aq", "v")] == [1, 2, 3, 8, 8]
    assert alpha_of({}, "q", 4) == 4


@pytest.mark.parametrize(
    ("layout", "path", "module"),
    [
        (t5_layout, "block_1/attention/q/kernel", "encoder.block.1.layer.0.SelfAttention.q"),
        (bert_layout, "block_1/query/kernel", "encoder.layer.1.attention.self.query"),
        (bert_layout, "block_1/query/kernel", "bert.encoder.layer.1.attention.self.query"),
        (clip_layout, "block_1/attention/q/kernel", "text_model.encoder.layers.1.self_attn.q_proj"),
        (clip_layout, "block_1/attention/q/kernel", "encoder.layers.1.self_attn.q_proj"),
    ],
)
def test_names_of_the_text_encoders(tmp_path, layout, path, module):
    params = unflatten_dict({path: drawn(8, 6)}, sep="/")
    tensors = {f"text_encoder.{module}.lora_A.weight": A, f"text_encoder.{module}.lora_B.weight": B}
    lora, _ = load_lora(saved(tmp_path, tensors), params, layout.tensor, prefix="text_encoder")
    assert flatten_dict(lora, sep="/").keys() == {f"{path}/down", f"{path}/up"}


OTHERS = {
    "of another network": ({"up.q.lora_A.weight": A}, {}, "up.q.lora_A.weight is left over"),
    "many": ({f"up.{i}.lora_A.weight": A for i in range(20)}, {}, "and 12 more"),
    "below a name": ({f"unet.{name}": value for name, value in Q.items()}, {}, "unet.out.q.lora_A.weight is left over"),
    "another part": (Q | {"out.q.bias": A}, {}, "out.q.bias is left over"),
    "DoRA": (Q | {"out.q.lora_magnitude_vector.weight": A}, {}, "lora_magnitude_vector.weight is left over"),
    "half": ({"out.q.lora_A.weight": A}, {}, "out.q has no up factor"),
    "alpha alone": ({"out.q.alpha": np.zeros((), np.float32)}, {}, "out.q has no down and up factor"),
    "another size": (
        {"out.q.lora_A.weight": A[:, 1:], "out.q.lora_B.weight": B}, {},
        r"out.q has factors \(2, 7\) and \(6, 2\), its weight is \(6, 8\)",
    ),
    "two ranks": (Q | {"out.q.lora_B.weight": drawn(6, 3)}, {}, r"factors \(2, 8\) and \(6, 3\)"),
    "no rank": ({"out.q.lora_A.weight": A[:0], "out.q.lora_B.weight": B[:, :0]}, {}, r"factors \(0, 8\) and \(6, 0\)"),
    "of a matrix for a convolution": (
        {"stem.lora_A.weight": drawn(2, 4), "stem.lora_B.weight": drawn(8, 2)}, {}, r"its weight is \(8, 4, 3, 3\)"
    ),
    "another kind": (Q, {"peft_type": "LOHA"}, "of the kind LOHA"),
    "said to be DoRA": (Q, {"use_dora": True}, "made with use_dora"),
    "begun otherwise": (Q, {"init_lora_weights": "pissa"}, "began as 'pissa'"),
}  # fmt: skip


@pytest.mark.parametrize(("tensors", "config", "complaint"), OTHERS.values(), ids=OTHERS)
def test_files_that_do_not_fit_are_one_clear_line(tmp_path, tensors, config, complaint):
    with pytest.raises(ValueError, match=complaint) as caught:
        load_lora(saved(tmp_path, tensors, told(**config)), PARAMS)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_one_kernel_under_two_names_is_refused(tmp_path):
    names = [name.removesuffix(".weight") for name in bert_layout.tensor("block_0/query/kernel")]
    tensors = {f"{name}.{role}.weight": value for name in names for role, value in (("lora_A", A), ("lora_B", B))}
    params = {"block_0": {"query": {"kernel": drawn(8, 6)}}}
    with pytest.raises(ValueError, match=r"query and bert\..*query are one|bert\..*query and .*query are one"):
        load_lora(saved(tmp_path, tensors), params, bert_layout.tensor)


def test_a_prefix_that_is_not_there(tmp_path):
    path = saved(tmp_path, {f"unet.{name}": value for name, value in Q.items()})
    with pytest.raises(ValueError, match=r"no tensors of text_encoder\.; it has those of unet"):
        load_lora(path, PARAMS, prefix="text_encoder")


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no parameters at"):
        load_lora(tmp_path / "none.safetensors", PARAMS)
    with pytest.raises(FileNotFoundError, match=r"no adapter_model.safetensors and no pytorch_lora_weights"):
        load_lora(tmp_path, PARAMS)
    (tmp_path / "adapter_model.bin").touch()
    with pytest.raises(ValueError, match="is a pickle"):
        load_lora(tmp_path, PARAMS)
    saved(tmp_path, Q, name="adapter_model.safetensors")
    with pytest.raises(FileNotFoundError, match=r"no adapter_config.json, which says alpha"):
        load_lora(tmp_path, PARAMS)
    for text in ("{", "[]"):
        (tmp_path / "adapter_config.json").write_text(text)
        with pytest.raises(ValueError, match="is no JSON object"):
            load_lora(tmp_path, PARAMS)


def test_what_cannot_be_written_leaves_the_old_folder(tmp_path):
    save_peft(tmp_path, Adapter(LORA, 4.0))
    huge = jax.tree.map(lambda leaf: 1e6 * leaf, LORA)
    with pytest.raises(ValueError, match="exceeds the range of float16"):
        save_peft(tmp_path, Adapter(huge, 4.0), dtype="float16")
    assert_same(load_lora(tmp_path, PARAMS), Adapter(LORA, 4.0))
    assert len(os.listdir(tmp_path)) == 2
