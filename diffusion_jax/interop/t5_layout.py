"""How checkpoints of the T5 family lie on disk: T5 v1.0 and v1.1, Flan-T5, mT5, ByT5, and umT5."""

from collections.abc import Mapping
from typing import Any

from jax.typing import DTypeLike

from diffusion_jax.models.t5 import T5Encoder

MODEL_TYPES = ("t5", "mt5", "umt5")
MODULE = T5Encoder
ACTIVATIONS = {"relu": "relu", "gated-gelu": "gelu_new"}  # gelu_new: the tanh form
NOT_OURS = r"decoder\.|lm_head\.|shared\.|encoder\.embed_tokens\."  # the last two are one tensor, under either name
ROOT = {
    "token_embedding/embedding": ("shared.weight", "encoder.embed_tokens.weight"),
    "position_bias/embedding": ("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",),
    "final_norm/scale": ("encoder.final_layer_norm.weight",),
}
IN_BLOCK = {
    "attention_norm/scale": "layer.0.layer_norm.weight",
    "feed_forward_norm/scale": "layer.1.layer_norm.weight",
    **{f"attention/{name}/kernel": f"layer.0.SelfAttention.{name}.weight" for name in "qkvo"},
    **{f"feed_forward/{name}/kernel": f"layer.1.DenseReluDense.{name}.weight" for name in ("wi", "wi_0", "wi_1", "wo")},
}


def module(config: Mapping[str, Any], dtype: DTypeLike) -> T5Encoder:
    """The encoder that a config.json describes. Raises ValueError for one that this module cannot be."""
    feed_forward = config.get("feed_forward_proj", "relu" if config["model_type"] == "t5" else "gated-gelu")
    if feed_forward not in ACTIVATIONS:
        raise ValueError(f"feed_forward_proj is {feed_forward!r}; T5 here has {' or '.join(ACTIVATIONS)}")
    if (activation := config.get("dense_act_fn", ACTIVATIONS[feed_forward])) != ACTIVATIONS[feed_forward]:
        raise ValueError(f"dense_act_fn is {activation!r}; {feed_forward} here has {ACTIVATIONS[feed_forward]!r}")
    if (epsilon := config.get("layer_norm_epsilon", 1e-6)) != 1e-6:
        raise ValueError(f"layer_norm_epsilon is {epsilon}; T5 here has 1e-06")
    return T5Encoder(
        vocab=config["vocab_size"],
        dim=config["d_model"],
        d_kv=config["d_kv"],
        d_ff=config["d_ff"],
        heads=config["num_heads"],
        layers=config["num_layers"],
        gated=feed_forward == "gated-gelu",
        buckets=config.get("relative_attention_num_buckets", 32),
        max_distance=config.get("relative_attention_max_distance", 128),
        dtype=dtype,
        bias_per_layer=config["model_type"] == "umt5",
    )


def config(module: T5Encoder) -> dict[str, Any]:
    """The config.json of a module."""
    return {
        "architectures": ["UMT5EncoderModel" if module.bias_per_layer else "T5EncoderModel"],
        "model_type": "umt5" if module.bias_per_layer else "t5",
        "vocab_size": module.vocab,
        "d_model": module.dim,
        "d_kv": module.d_kv,
        "d_ff": module.d_ff,
        "num_heads": module.heads,
        "num_layers": module.layers,
        "feed_forward_proj": "gated-gelu" if module.gated else "relu",
        "relative_attention_num_buckets": module.buckets,
        "relative_attention_max_distance": module.max_distance,
        "layer_norm_epsilon": 1e-6,
    }


def tensor(path: str) -> tuple[str, ...]:
    """What a parameter of the module is called in a checkpoint: the first of these names that is there."""
    if path in ROOT:
        return ROOT[path]
    part, _, rest = path.partition("/")
    layer = part.rpartition("_")[2]
    within = "layer.0.SelfAttention.relative_attention_bias.weight" if rest == "embedding" else IN_BLOCK[rest]
    return (f"encoder.block.{layer}.{within}",)
