"""T5Gemma's folders: what was saved comes back, under a whole model's names too, and what this encoder cannot be."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from diffusion_jax.data import tokenizers
from diffusion_jax.interop.huggingface import TextEncoder, load_text_encoder, save_text_encoder
from diffusion_jax.models.t5gemma import T5GemmaEncoder


@pytest.fixture
def encoder():
    module = T5GemmaEncoder(384, dim=8, d_kv=4, d_ff=12, heads=2, kv_heads=1, layers=2, window=5, cap=0.0, theta=100.0)
    one, rng = jnp.zeros((1, 1), jnp.int32), np.random.default_rng(0)
    shapes = jax.eval_shape(module.init, jax.random.key(0), one, one == 0)["params"]
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), shapes)
    return TextEncoder(module, params, tokenizers.byt5(9))


@pytest.fixture
def folder(encoder, tmp_path):
    save_text_encoder(tmp_path / "model", encoder)
    return tmp_path / "model"


def assert_same(found, encoder):
    assert found.module == encoder.module
    assert jax.tree.structure(found.params) == jax.tree.structure(encoder.params)
    jax.tree.map(np.testing.assert_array_equal, found.params, encoder.params)


def test_what_was_saved_comes_back(folder, encoder):
    assert_same(load_text_encoder(folder), encoder)


def test_the_encoder_of_a_whole_model_is_found_beside_its_decoder(folder, encoder):
    weights = load_file(folder / "model.safetensors")
    whole = {f"model.{name}": value for name, value in weights.items()}
    whole |= {f"model.{name.replace('encoder.', 'decoder.')}": value for name, value in weights.items()}
    save_file(whole | {"lm_head.out_proj.weight": np.zeros((384, 8), np.float32)}, folder / "model.safetensors")
    assert_same(load_text_encoder(folder), encoder)


def test_older_configs_say_how_fast_positions_turn_elsewhere(folder, encoder):
    told = json.loads((folder / "config.json").read_text())
    del told["encoder"]["rope_parameters"]
    (folder / "config.json").write_text(json.dumps(told | {"encoder": told["encoder"] | {"rope_theta": 100.0}}))
    assert_same(load_text_encoder(folder), encoder)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"hidden_activation": "relu"}, "hidden_activation is 'relu'; T5Gemma here has 'gelu_pytorch_tanh'"),
        ({"rms_norm_eps": 1e-5}, "rms_norm_eps is 1e-05"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"layer_types": ["full_attention"] * 2}, "sliding_attention and full_attention by turns"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1.0}}, "rope_type is 'yarn'"),
        ({"num_key_value_heads": 2}, "self_attn.k_proj.weight is"),
        ({"vocab_size": None}, "vocab"),
    ],
)
def test_what_this_encoder_cannot_be(folder, change, line):
    told = json.loads((folder / "config.json").read_text())
    half = {name: value for name, value in (told["encoder"] | change).items() if value is not None}
    (folder / "config.json").write_text(json.dumps(told | {"encoder": half}))
    with pytest.raises(ValueError, match=line):
        load_text_encoder(folder)
