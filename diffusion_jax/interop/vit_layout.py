"""How DINOv2 and CLIP's image encoder lie on disk, as transformers writes them.

Of CLIP it may be the image encoder alone, with its projection, or the whole. A kernel of ours is the transpose of a
weight of PyTorch's.
"""

from collections.abc import Mapping
from typing import Any

from diffusion_jax.models.vit import VisionTransformer

NOT_OURS = r"(dinov2\.)?embeddings\.mask_token$|text_model\.|text_projection\.|logit_scale$|.*position_ids$"
CLIP = {  # of transformers, whose config.json may leave out what is as here
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "projection_dim": 512,
}
DINOV2 = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "mlp_ratio": 4,
    "image_size": 224,
    "patch_size": 14,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "qkv_bias": True,
    "use_swiglu_ffn": False,
}
IN_CLIP = {
    "class_token": "embeddings.class_embedding",
    "positions": "embeddings.position_embedding.weight",
    "patches": "embeddings.patch_embedding",
    "first_norm": "pre_layrnorm",
    "final_norm": "post_layernorm",
    "attention_norm": "layer_norm1",
    "feed_forward_norm": "layer_norm2",
    **{name: f"self_attn.{name}_proj" for name in ("q", "k", "v", "out")},
    **{name: f"mlp.{name}" for name in ("fc1", "fc2")},
}
IN_DINOV2 = {
    "class_token": "embeddings.cls_token",
    "positions": "embeddings.position_embeddings",
    "patches": "embeddings.patch_embeddings.projection",
    "final_norm": "layernorm",
    "attention_norm": "norm1",
    "feed_forward_norm": "norm2",
    "attention_scale": "layer_scale1.lambda1",
    "feed_forward_scale": "layer_scale2.lambda1",
    "q": "attention.attention.query",
    "k": "attention.attention.key",
    "v": "attention.attention.value",
    "out": "attention.output.dense",
    **{name: f"mlp.{name}" for name in ("fc1", "fc2")},
}


def module(config: Mapping[str, Any]) -> VisionTransformer:
    """The network that a config.json describes. Raises ValueError for one that this module cannot be."""
    kind = config.get("model_type")
    if kind == "dinov2":
        return _dinov2(DINOV2 | dict(config))
    if kind == "clip_vision_model":
        return _clip(CLIP | dict(config), config.get("projection_dim", CLIP["projection_dim"]))
    if kind == "clip":
        inner = config.get("vision_config_dict") or config.get("vision_config") or {}
        return _clip(CLIP | dict(inner), config.get("projection_dim", CLIP["projection_dim"]))
    raise ValueError(f"model_type is {kind!r}, which is no ViT that is known here: dinov2, clip or clip_vision_model")


def tensor(path: str, of_clip: bool) -> tuple[str, ...]:
    """What a parameter of the module may be called in a checkpoint."""
    if path == "projection/kernel":
        return ("visual_projection.weight",)
    head, _, rest = path.partition("/")
    names = IN_CLIP if of_clip else IN_DINOV2
    before = ""
    if head.startswith("block_"):
        before = f"encoder.{'layers' if of_clip else 'layer'}.{head.removeprefix('block_')}."
        head, _, rest = rest.partition("/")
    leaf = {"": "", "bias": ".bias"}.get(rest, ".weight")
    name = f"{before}{names[head]}{leaf}"
    return (f"vision_model.{name}",) if of_clip else (name, f"dinov2.{name}")


def _dinov2(told: Mapping[str, Any]) -> VisionTransformer:
    if told["use_swiglu_ffn"] or not told["qkv_bias"]:
        raise ValueError("DINOv2 here has a GELU, and biases of queries: ViT-S, B or L, not g")
    return VisionTransformer(**_common(told), d_ff=int(told["hidden_size"] * told["mlp_ratio"]))


def _clip(told: Mapping[str, Any], projection: int) -> VisionTransformer:
    return VisionTransformer(
        **_common(told),
        d_ff=told["intermediate_size"],
        scaled=False,
        patch_bias=False,
        norm_first=True,
        projection=projection,
    )


def _common(told: Mapping[str, Any]) -> dict[str, Any]:
    size, patch = told["image_size"], told["patch_size"]
    if not isinstance(size, int) or not isinstance(patch, int) or told["num_channels"] != 3:
        raise ValueError(
            f"pictures of {size} in patches of {patch}, {told['num_channels']} channels: not square and RGB"
        )
    return {
        "dim": told["hidden_size"],
        "heads": told["num_attention_heads"],
        "layers": told["num_hidden_layers"],
        "patch": patch,
        "grid": size // patch,
        "activation": told["hidden_act"],
        "epsilon": told["layer_norm_eps"],
    }
