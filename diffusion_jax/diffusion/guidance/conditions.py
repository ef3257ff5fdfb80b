"""Several conditions for one batch of pictures: what guidance with and without text shares."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from diffusion_jax.types import Cond, Denoiser, Image, Scalar


def in_one_call(denoise: Denoiser, x: Image, sigma: Scalar, conds: Sequence[Cond]) -> list[Image]:
    """D for each condition, from one call on a batch as many times as large; the first has the batch of x."""
    conds = [conds[0], *(of_batch(other, conds[0]) for other in conds[1:])]
    together = jax.tree.map(lambda *parts: jnp.concatenate(parts), *conds)
    return jnp.split(denoise(jnp.concatenate([x] * len(conds)), sigma, together), len(conds))


def of_batch(other: Cond, cond: Cond) -> Cond:
    """`other` with the batch and the types of cond. Raises ValueError where their texts differ in length or width."""
    if [o.shape[1:] for o in other] != [c.shape[1:] for c in cond]:
        shapes = f"{other.text_emb.shape[1:]} and {cond.text_emb.shape[1:]}"
        raise ValueError(f"two conditions differ in text length or width, {shapes}: encode both in the same way")
    return jax.tree.map(lambda o, c: jnp.broadcast_to(o, c.shape).astype(c.dtype), other, cond)
