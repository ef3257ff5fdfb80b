"""The training half of guidance: a network that shall also know what pictures are like without their text."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from diffusion_jax.diffusion.guidance.conditions import of_batch
from diffusion_jax.diffusion.keys import for_purpose, uniform
from diffusion_jax.types import Cond, Keys


def drop(cond: Cond, null_cond: Cond, probability: ArrayLike, keys: Keys) -> Cond:
    """Each example, by its own key, loses its text with this probability (Ho and Salimans 2022, Algorithm 1)."""
    lost = uniform(for_purpose(keys, "drop")) < probability

    def choose(kept, null):
        return jnp.where(lost.reshape(lost.shape + (1,) * (kept.ndim - 1)), null, kept)

    return jax.tree.map(choose, cond, of_batch(null_cond, cond))
