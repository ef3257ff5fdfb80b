"""One text encoder: its tokenizer, its parameters, and whether they are trained."""

import os
from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from diffusion_jax.data.hub import folder_of
from diffusion_jax.data.tokenizers import BYT5_VOCAB, Tokenizer, truncated
from diffusion_jax.interop import huggingface
from diffusion_jax.text.embedded import embedded
from diffusion_jax.text.record import Text
from diffusion_jax.types import Cond, Keys, Params


def jointly_trained(tokenize: Callable, encoder: nn.Module) -> Text:
    """A text encoder whose parameters are trained together with the denoiser's."""

    def init(key: Array) -> Params:
        tokens, mask = tokenize([""])
        return encoder.init(key, jnp.asarray(tokens), jnp.asarray(mask))["params"]

    def encode(
        params: Params,
        tokens: Int[Array, "batch length"],
        mask: Bool[Array, "batch length"],
        dropout_keys: Keys | None = None,
    ) -> Cond:
        return Cond(encoder.apply({"params": params}, tokens, mask, dropout_keys), mask)

    return Text(tokenize, init, encode, partial(truncated, tokenizer=tokenize))


def pretrained(
    tokenize: Tokenizer,
    folder: str | os.PathLike,
    trained: bool = False,
    dtype: str = "float32",
    dropout: float = 0.0,
    cached: bool = False,
    caches: str | os.PathLike | None = None,
) -> Text:
    """The text encoder that `load_text_encoder` finds by a name: as it is, trained further, or embedded before.

    tokenize: what `tokenizers.pretrained` makes of the same folder. dtype: of matrices and what is computed in; a
    trained one wants float32. dropout: while it is trained, for a family that has any.
    cached: captions are embedded outside of the training step, and the model has no encoder among its parameters.
    caches: where `data embed` keeps embeddings; every caption then has to be there, and the encoder is never loaded.
    Without it, the encoder is loaded at the first caption; its embeddings are rounded as those that are kept.
    Raises ValueError for a tokenizer of another folder, another dtype, dropout without training or in a family without,
    a trained encoder that is to be cached, and what `load_text_encoder` and `embeddings.open_cache` raise.
    """
    if dtype not in ("float32", "bfloat16"):
        raise ValueError(f"dtype is {dtype!r}: an encoder computes in float32 or bfloat16")
    module = huggingface.described(folder, dtype)
    told = getattr(tokenize, "keywords", {}).get("folder")
    if told is None and getattr(module, "vocab", None) != BYT5_VOCAB:
        raise ValueError(f"{folder} knows no bytes: set config.tokenizer to dict(name='pretrained', folder={folder!r})")
    if told is not None and folder_of(told) != folder_of(folder):
        raise ValueError(f"an encoder knows no tokenizer but its own: this is of {folder}, config.tokenizer of {told}")
    if cached and trained:
        raise ValueError("what is cached does not change: set trained or cached, not both")
    if dropout and not (trained and hasattr(module, "dropout")):
        raise ValueError(f"dropout={dropout} acts where an encoder of T5's or BERT's family is trained: leave it out")
    if cached:
        return embedded(tokenize, folder, module, dtype, caches)
    joint = jointly_trained(tokenize, module.clone(dropout=dropout) if dropout else module)

    def init(key: Array) -> Params:  # zeros, until they are loaded: to compile the drawing of each would take long
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(joint.init, key))

    return joint._replace(
        init=init,
        load=lambda: huggingface.load_text_encoder(folder, dtype).params,
        describe=lambda to: huggingface.save_description(to, module, tokenize),
        trained=trained,
    )
