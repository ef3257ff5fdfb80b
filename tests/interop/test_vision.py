"""Image encoders from folders, and one clear line for what is wrong with a folder."""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy

from diffusion_jax.interop import vit_layout
from diffusion_jax.interop.vision import _init, load_image_encoder

SMALL = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 12, "patch_size": 4}
CONFIGS = {
    "dinov2": SMALL | {"model_type": "dinov2"},
    "clip": {"model_type": "clip", "vision_config": SMALL | {"intermediate_size": 20}, "projection_dim": 6},
    "clip_vision_model": SMALL | {"model_type": "clip_vision_model", "intermediate_size": 20, "projection_dim": 6},
}


def written(folder, kind, change=None, config=None):
    """The parameters, and the folder with them by the names of transformers."""
    told = CONFIGS[kind] | (config or {})
    shapes = jax.eval_shape(lambda: _init(vit_layout.module(CONFIGS[kind])))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    tensors = {}
    for keys, value in jax.tree_util.tree_leaves_with_path(params):
        path = "/".join(key.key for key in keys)
        if value.ndim == 4:
            value = value.transpose(3, 2, 0, 1)
        elif path.endswith("kernel"):
            value = value.T
        elif kind == "dinov2" and path in ("class_token", "positions"):
            value = value.reshape(1, -1, 8)
        tensors[vit_layout.tensor(path, kind != "dinov2")[0]] = np.ascontiguousarray(value)
    tensors |= (
        {"text_model.x": np.zeros(2, np.float32), "logit_scale": np.array(1, np.float32)} if kind == "clip" else {}
    )
    tensors |= {"embeddings.mask_token": np.zeros((1, 8), np.float32)} if kind == "dinov2" else {}
    tensors = {name: value for name, value in (tensors | (change or {})).items() if value is not None}
    folder.mkdir(exist_ok=True)
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(told))
    return params


@pytest.mark.parametrize("kind", list(CONFIGS))
def test_parameters_come_back(tmp_path, kind):
    params = written(tmp_path, kind)
    encoder = load_image_encoder(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, encoder.params, params)
    assert encoder.module.scaled == (kind == "dinov2")
    assert encoder.module.projection == (0 if kind == "dinov2" else 6)
    assert len(encoder.digest) == 64
    written(tmp_path / "other", kind, {vit_layout.tensor("final_norm/bias", kind != "dinov2")[0]: np.ones(8, "f4")})
    assert load_image_encoder(tmp_path / "other").digest != encoder.digest


NORM = "layernorm.weight"


@pytest.mark.parametrize(
    ("change", "config", "reason"),
    [
        ({NORM: None}, {}, "layernorm.weight is missing"),
        ({"head.weight": np.zeros(3, "f4")}, {}, "head.weight is left over"),
        ({NORM: np.zeros(9, "f4")}, {}, r"layernorm.weight is \(9,\), and config.json makes it \(8,\)"),
        (
            {"embeddings.position_embeddings": np.zeros((1, 5, 8), "f4")},
            {},
            r"\(1, 5, 8\), and config.json .*\(10, 8\)",
        ),
        ({}, {"use_swiglu_ffn": True}, "ViT-S, B or L, not g"),
        ({}, {"num_attention_heads": 3}, "3 heads do not divide"),
        ({}, {"hidden_act": "tanh"}, "the activation is 'tanh'"),
        ({}, {"patch_size": [4, 4]}, "not square and RGB"),
        ({}, {"model_type": "vit"}, "config.json: model_type is 'vit', not dinov2 or clip"),
    ],
)
def test_what_is_wrong_is_told(tmp_path, change, config, reason):
    written(tmp_path, "dinov2", change, config)
    with pytest.raises(ValueError, match=reason):
        load_image_encoder(tmp_path)


def test_what_is_missing_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config.json and model.safetensors"):
        load_image_encoder(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"has no config.json"):
        load_image_encoder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS["dinov2"]))
    with pytest.raises(FileNotFoundError, match=r"has no model.safetensors"):
        load_image_encoder(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match="is a pickle"):
        load_image_encoder(tmp_path)
