"""How checkpoints of BERT lie on disk, bare or below "bert." in a model with heads, under today's names and older."""

from collections.abc import Mapping
from typing import Any

from jax.typing import DTypeLike

from diffusion_jax.models.bert import BertEncoder

MODEL_TYPES = ("bert",)
MODULE = BertEncoder
NOT_OURS = r"(bert\.)?(pooler\.|embeddings\.position_ids$)|cls\.|classifier\.|qa_outputs\."
ROOT = {
    "token_embedding": "word_embeddings",
    "position_embedding": "position_embeddings",
    "type_embedding": "token_type_embeddings",
    "embedding_norm": "LayerNorm",
}
IN_BLOCK = {
    **{name: f"attention.self.{name}" for name in ("query", "key", "value")},
    "attention_out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "wi": "intermediate.dense",
    "wo": "output.dense",
    "feed_forward_norm": "output.LayerNorm",
}
LEAF = {"embedding": ("weight",), "kernel": ("weight",), "scale": ("weight", "gamma"), "bias": ("bias", "beta")}
ONLY = {"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False}


def module(config: Mapping[str, Any], dtype: DTypeLike) -> BertEncoder:
    """The encoder that a config.json describes. Raises ValueError for one that this module cannot be."""
    for name, value in ONLY.items():
        if config.get(name, value) != value:
            raise ValueError(f"{name} is {config[name]!r}; BERT here has {value!r}")
    return BertEncoder(
        vocab=config["vocab_size"],
        dim=config["hidden_size"],
        d_ff=config["intermediate_size"],
        heads=config["num_attention_heads"],
        layers=config["num_hidden_layers"],
        positions=config["max_position_embeddings"],
        types=config.get("type_vocab_size", 2),
        activation=config.get("hidden_act", "gelu"),
        epsilon=config.get("layer_norm_eps", 1e-12),
        dtype=dtype,
    )


def config(module: BertEncoder) -> dict[str, Any]:
    """The config.json of a module."""
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "vocab_size": module.vocab,
        "hidden_size": module.dim,
        "intermediate_size": module.d_ff,
        "num_attention_heads": module.heads,
        "num_hidden_layers": module.layers,
        "max_position_embeddings": module.positions,
        "type_vocab_size": module.types,
        "hidden_act": module.activation,
        "layer_norm_eps": module.epsilon,
    }


def tensor(path: str) -> tuple[str, ...]:
    """What a parameter of the module is called in a checkpoint: the first of these names that is there."""
    *block, part, leaf = path.split("/")
    stem = f"encoder.layer.{block[0].removeprefix('block_')}.{IN_BLOCK[part]}" if block else f"embeddings.{ROOT[part]}"
    return tuple(f"{prefix}{stem}.{name}" for prefix in ("", "bert.") for name in LEAF[leaf])
