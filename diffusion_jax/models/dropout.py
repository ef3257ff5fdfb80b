"""Dropout by one random key for each example: no device, batch size or place in the batch changes its masks."""

from zlib import crc32

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffusion_jax.types import Keys


class Dropout(nn.Module):
    """Zero for a number with probability `rate`, else the number over 1 - rate, so that its mean stays.

    What it draws is a function of an example's key and the module's path: its name tells it from other places in the
    network, and it acts once in a call. Without keys, or at rate 0, x is returned as it is and nothing is drawn.
    Srivastava et al. 2014, section 10 (the scale belongs to training, not to use).
    Raises ValueError for a rate outside [0, 1).
    """

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "batch ..."], keys: Keys | None = None) -> Float[Array, "batch ..."]:
        if not 0 <= self.rate < 1:
            raise ValueError(f"dropout is {self.rate}: a rate lies in [0, 1)")
        if keys is None or self.rate == 0:
            return x
        place = crc32("/".join(self.path).encode())

        def of_one(key, row):
            kept = jax.random.bernoulli(jax.random.fold_in(key, place), 1 - self.rate, row.shape)
            return jnp.where(kept, row / (1 - self.rate), 0)

        return jax.vmap(of_one)(keys, x)


def drop(
    x: Float[Array, "batch ..."], rate: float, keys: Keys | None = None, *, name: str
) -> Float[Array, "batch ..."]:
    """`Dropout` called `name` within the module around it, where a second one of that name is an error."""
    return Dropout(rate, name=name)(x, keys)
