"""How checkpoints of T5Gemma lie on disk, whole or the encoder alone."""

from collections.abc import Mapping
from typing import Any

from jax.typing import DTypeLike

from diffusion_jax.models.t5gemma import EPSILON, T5GemmaEncoder

MODEL_TYPES = ("t5gemma",)
MODULE = T5GemmaEncoder
NOT_OURS = r"(model\.)?decoder\.|lm_head\."
ROOT = {"token_embedding/embedding": "embed_tokens.weight", "final_norm/offset": "norm.weight"}
IN_BLOCK = {
    **{f"attention/{name}/kernel": f"self_attn.{name}_proj.weight" for name in "qkvo"},
    "attention_norm/offset": "pre_self_attn_layernorm.weight",
    "attention_out_norm/offset": "post_self_attn_layernorm.weight",
    "feed_forward_norm/offset": "pre_feedforward_layernorm.weight",
    "feed_forward_out_norm/offset": "post_feedforward_layernorm.weight",
    "gate/kernel": "mlp.gate_proj.weight",
    "wi/kernel": "mlp.up_proj.weight",
    "wo/kernel": "mlp.down_proj.weight",
}
# What transformers takes where a config.json does not say it.
DEFAULTS = {
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "rms_norm_eps": EPSILON,
    "attention_bias": False,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "attn_logit_softcapping": 50.0,
}
ONLY = ("hidden_activation", "rms_norm_eps", "attention_bias")


def module(config: Mapping[str, Any], dtype: DTypeLike) -> T5GemmaEncoder:
    """The encoder that a config.json describes. Raises ValueError for one that this module cannot be."""
    told = DEFAULTS | dict(config["encoder"])
    for name in ONLY:
        if told[name] != DEFAULTS[name]:
            raise ValueError(f"{name} is {told[name]!r}; T5Gemma here has {DEFAULTS[name]!r}")
    kinds = ["full_attention" if i % 2 else "sliding_attention" for i in range(told["num_hidden_layers"])]
    if (found := told.get("layer_types") or kinds) != kinds:
        raise ValueError(f"layer_types is {found}; T5Gemma here has {' and '.join(kinds[:2])} by turns")
    turning = told.get("rope_parameters") or {"rope_theta": told.get("rope_theta", 10_000.0)}
    if (kind := turning.get("rope_type", "default")) != "default" or told.get("rope_scaling"):
        raise ValueError(f"rope_type is {kind!r}, rope_scaling {told.get('rope_scaling')}; T5Gemma here has neither")
    return T5GemmaEncoder(
        vocab=told["vocab_size"],
        dim=told["hidden_size"],
        d_kv=told["head_dim"],
        d_ff=told["intermediate_size"],
        heads=told["num_attention_heads"],
        kv_heads=told["num_key_value_heads"],
        layers=told["num_hidden_layers"],
        window=told["sliding_window"],
        query_scale=told["query_pre_attn_scalar"] ** -0.5,
        cap=told["attn_logit_softcapping"] or 0.0,
        theta=float(turning["rope_theta"]),
        dtype=dtype,
    )


def config(module: T5GemmaEncoder) -> dict[str, Any]:
    """The config.json of a module. The decoder that transformers wants to hear of is described as the encoder is."""
    half = {
        "vocab_size": module.vocab,
        "hidden_size": module.dim,
        "head_dim": module.d_kv,
        "intermediate_size": module.d_ff,
        "num_attention_heads": module.heads,
        "num_key_value_heads": module.kv_heads,
        "num_hidden_layers": module.layers,
        "sliding_window": module.window,
        "query_pre_attn_scalar": round(module.query_scale**-2),
        "attn_logit_softcapping": module.cap or None,
        "rope_parameters": {"rope_type": "default", "rope_theta": module.theta},
    }
    return {
        "architectures": ["T5GemmaEncoderModel"],
        "model_type": "t5gemma",
        "is_encoder_decoder": False,
        "vocab_size": module.vocab,
        "encoder": half,
        "decoder": half,
    }


def tensor(path: str) -> tuple[str, ...]:
    """What a parameter of the module is called in a checkpoint: the first of these names that is there."""
    block, _, rest = path.partition("/")
    stem = ROOT[path] if path in ROOT else f"layers.{block.removeprefix('block_')}.{IN_BLOCK[rest]}"
    return f"encoder.{stem}", f"model.encoder.{stem}"
