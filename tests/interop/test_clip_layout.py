"""Which encoder a config.json of CLIP describes, and what its tensors are called."""

import jax
import jax.numpy as jnp
import pytest

from diffusion_jax.interop import clip_layout
from diffusion_jax.models.clip_text import ClipTextEncoder

BASE = ClipTextEncoder(vocab=49408, dim=512, d_ff=2048, heads=8, layers=12)
ALONE, WHOLE = {"model_type": "clip_text_model"}, {"model_type": "clip"}
OF_LARGE = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "eos_token_id": 2}
LARGE = BASE.clone(dim=768, d_ff=3072, heads=12)


@pytest.mark.parametrize(
    ("config", "module"),
    [
        (ALONE, BASE),
        (ALONE | OF_LARGE, LARGE.clone(end_token=None)),
        (ALONE | {"hidden_act": "gelu", "num_hidden_layers": 23}, BASE.clone(activation="gelu", layers=23)),
        (ALONE | {"architectures": ["CLIPTextModel"], "projection_dim": 768}, BASE),
        (ALONE | {"architectures": ["CLIPTextModelWithProjection"]}, BASE.clone(projection=512)),
        (WHOLE, BASE.clone(projection=512)),
        (WHOLE | {"hidden_size": 7, "projection_dim": 640}, BASE.clone(projection=640)),
        (WHOLE | {"text_config": OF_LARGE, "text_config_dict": None}, LARGE.clone(end_token=None, projection=512)),
        (
            WHOLE | {"text_config": OF_LARGE, "text_config_dict": {"vocab_size": 99}},
            BASE.clone(vocab=99, projection=512),
        ),
    ],
)
def test_a_config_describes_one_encoder(config, module):
    assert clip_layout.module(config, jnp.float32) == module


@pytest.mark.parametrize("changes", [{}, {"projection": 640}, {"end_token": None}, {"activation": "gelu", "dim": 1024}])
def test_what_is_written_is_read_again(changes):
    module = BASE.clone(**changes)
    assert clip_layout.module(clip_layout.config(module), jnp.float32) == module


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"layer_norm_eps": 1e-6}, "layer_norm_eps is 1e-06"),
        ({"eos_token_id": [1, 2]}, r"eos_token_id is \[1, 2\]"),
        ({"eos_token_id": None}, "eos_token_id is None"),
        ({"hidden_act": "relu"}, "the activation is 'relu'"),
        ({"num_attention_heads": 7}, "7 heads do not divide"),
    ],
)
def test_what_the_module_cannot_be_is_refused(config, message):
    for whole in (ALONE | config, WHOLE | {"text_config": config}):
        with pytest.raises(ValueError, match=message):
            clip_layout.module(whole, jnp.float32)


def test_an_end_token_that_transformers_would_misread_is_not_written():
    with pytest.raises(ValueError, match="end token of 2"):
        clip_layout.config(BASE.clone(end_token=2))


def test_each_parameter_has_a_name_of_its_own():
    module = BASE.clone(vocab=9, dim=8, d_ff=4, layers=11, projection=3)
    one = jnp.zeros((1, 1), jnp.int32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), one, one == 0)["params"]
    paths = ["/".join(key.key for key in path) for path, _ in jax.tree_util.tree_leaves_with_path(shapes)]
    names = [name for path in paths for name in clip_layout.tensor(path)]
    assert len(set(names)) == len(names) == 2 * len(paths) - 1
    assert clip_layout.tensor("block_10/attention/out/kernel")[0] == (
        "text_model.encoder.layers.10.self_attn.out_proj.weight"
    )
