"""From captions to what the denoiser is conditioned on."""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from diffusion_jax.types import Cond, Params


class Text(NamedTuple):
    """A tokenizer and an encoder that belong together.

    tokenize: captions -> (tokens int32, mask bool), numpy arrays of (captions, length).
    init: key -> parameters. encode: (parameters, tokens, mask, dropout_key=None) -> Cond; dropout acts where there is a
    key. The null caption, of pictures without a caption, is the empty one.
    """

    tokenize: Callable
    init: Callable
    encode: Callable


def jointly_trained(tokenize: Callable, encoder: nn.Module) -> Text:
    """A text encoder whose parameters are trained together with the denoiser's."""

    def init(key: Array) -> Params:
        tokens, mask = tokenize([""])
        return encoder.init(key, jnp.asarray(tokens), jnp.asarray(mask))["params"]

    def encode(
        params: Params,
        tokens: Int[Array, "batch length"],
        mask: Bool[Array, "batch length"],
        dropout_key: Array | None = None,
    ) -> Cond:
        rngs = {} if dropout_key is None else {"dropout": dropout_key}
        embedded = encoder.apply({"params": params}, tokens, mask, deterministic=dropout_key is None, rngs=rngs)
        return Cond(embedded, mask)

    return Text(tokenize, init, encode)
