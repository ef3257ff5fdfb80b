"""Which random number belongs to which example: a function of (key, step, example index, purpose), never of a device.

A batch carries one key for each of its examples, so that an example draws the same numbers in a batch of any size.
"""

from zlib import crc32

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, Key

from diffusion_jax.types import Keys


def for_example(key: Key[Array, ""], step: ArrayLike, batch_size: int) -> Keys:
    """One key for each example of the global batch of this step."""
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key, step), jnp.arange(batch_size))


def for_purpose(keys: Key[Array, "*shape"], purpose: str) -> Key[Array, "*shape"]:
    """Keys that are independent of those for any other purpose; a purpose is any word, such as "noise" or "drop"."""
    return folded(keys, crc32(purpose.encode()))


def folded(keys: Key[Array, "*shape"], number: ArrayLike) -> Key[Array, "*shape"]:
    """Every key folded with one number, such as the index of a sampling step."""
    fold_in = jax.random.fold_in
    for _ in keys.shape:
        fold_in = jax.vmap(fold_in, (0, None))
    return fold_in(keys, number)


def normal(keys: Keys, shape: tuple[int, ...], dtype: DTypeLike = float) -> Float[Array, "batch ..."]:
    """Standard normal numbers, (batch, *shape): `shape` is that of one example."""
    return jax.vmap(lambda key: jax.random.normal(key, shape, dtype))(keys)


def uniform(keys: Keys, dtype: DTypeLike = float) -> Float[Array, " batch"]:
    """One number in [0, 1) for each example."""
    return jax.vmap(lambda key: jax.random.uniform(key, (), dtype))(keys)
