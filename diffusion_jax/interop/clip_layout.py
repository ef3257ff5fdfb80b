"""How checkpoints of CLIP lie on disk: the text encoder alone, with its projection, or beside the image encoder."""

from collections.abc import Mapping
from typing import Any

from jax.typing import DTypeLike

from diffusion_jax.models.clip_text import EPSILON, ClipTextEncoder

MODEL_TYPES = ("clip_text_model", "clip")
MODULE = ClipTextEncoder
NOT_OURS = r"vision_model\.|visual_projection\.|logit_scale$|(text_model\.)?embeddings\.position_ids$"
ROOT = {
    "token_embedding/embedding": "embeddings.token_embedding.weight",
    "position_embedding": "embeddings.position_embedding.weight",
    "final_norm/scale": "final_layer_norm.weight",
    "final_norm/bias": "final_layer_norm.bias",
}
IN_BLOCK = {
    "attention_norm": "layer_norm1",
    "feed_forward_norm": "layer_norm2",
    **{f"attention/{name}": f"self_attn.{name}_proj" for name in ("q", "k", "v", "out")},
    **{name: f"mlp.{name}" for name in ("fc1", "fc2")},
}
DEFAULTS = {  # of transformers, whose config.json may leave out what is as here
    "vocab_size": 49408,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_attention_heads": 8,
    "num_hidden_layers": 12,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "eos_token_id": 49407,
    "layer_norm_eps": 1e-5,
    "projection_dim": 512,
}


def module(config: Mapping[str, Any], dtype: DTypeLike) -> ClipTextEncoder:
    """The encoder that a config.json describes, of text alone or of CLIP as a whole.

    Raises ValueError for one that this module cannot be.
    """
    whole = config["model_type"] == "clip"
    # Older files of the whole say it twice, and what they say under text_config_dict is what transformers takes.
    told = DEFAULTS | dict((config.get("text_config_dict") or config.get("text_config") or {}) if whole else config)
    if (epsilon := told["layer_norm_eps"]) != EPSILON:
        raise ValueError(f"layer_norm_eps is {epsilon}; CLIP here has {EPSILON}")
    if not isinstance(end := told["eos_token_id"], int):
        raise ValueError(f"eos_token_id is {end}; CLIP here has one end token")
    # Of a text encoder alone, projection_dim does not tell whether there is a projection.
    projects = whole or "CLIPTextModelWithProjection" in (config.get("architectures") or ())
    return ClipTextEncoder(
        vocab=told["vocab_size"],
        dim=told["hidden_size"],
        d_ff=told["intermediate_size"],
        heads=told["num_attention_heads"],
        layers=told["num_hidden_layers"],
        max_length=told["max_position_embeddings"],
        activation=told["hidden_act"],
        end_token=None if end == 2 else end,
        projection=(config if whole else told).get("projection_dim", DEFAULTS["projection_dim"]) if projects else 0,
        dtype=dtype,
    )


def config(module: ClipTextEncoder) -> dict[str, Any]:
    """The config.json of a module; skip and final_norm are no part of it.

    Raises ValueError for end token 2, which transformers would take for something else.
    """
    if module.end_token == 2:
        raise ValueError("transformers takes an end token of 2 for the highest token of a row: use another, or None")
    return {
        "architectures": ["CLIPTextModelWithProjection" if module.projection else "CLIPTextModel"],
        "model_type": "clip_text_model",
        "vocab_size": module.vocab,
        "hidden_size": module.dim,
        "intermediate_size": module.d_ff,
        "num_attention_heads": module.heads,
        "num_hidden_layers": module.layers,
        "max_position_embeddings": module.max_length,
        "hidden_act": module.activation,
        "eos_token_id": 2 if module.end_token is None else module.end_token,
        "layer_norm_eps": EPSILON,
        "projection_dim": module.projection or module.dim,
    }


def tensor(path: str) -> tuple[str, ...]:
    """What a parameter of the module is called in a checkpoint: the first of these names that is there."""
    if path == "text_projection/kernel":
        return ("text_projection.weight",)
    if path in ROOT:
        name = ROOT[path]
    else:
        part, _, rest = path.partition("/")
        within, _, leaf = rest.rpartition("/")
        layer = part.rpartition("_")[2]
        name = f"encoder.layers.{layer}.{IN_BLOCK[within]}.{'bias' if leaf == 'bias' else 'weight'}"
    return f"text_model.{name}", name
