"""How is the picture made to follow its text? Denoiser in, Denoiser out: to combine two, nest them.

A negative prompt is another null_cond: the picture is pushed away from whatever stands there.
null_cond has a batch of one, or that of cond, and texts of the same length. Settings may be traced arrays.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from diffusion_jax.diffusion.keys import for_purpose, uniform
from diffusion_jax.types import Cond, Denoiser, Image, Keys, Scalar


def cfg(denoise: Denoiser, null_cond: Cond, scale: ArrayLike) -> Denoiser:
    """Classifier-free guidance, D(null) + scale (D(cond) - D(null)), in one call on a doubled batch.

    Scale 1 is no guidance and 0 is no text. Since eps is linear in D at a given x, guiding eps is the same.
    """

    def guided(x: Image, sigma: Scalar, cond: Cond) -> Image:
        both = jax.tree.map(lambda c, n: jnp.concatenate([c, n]), cond, _of_batch(null_cond, cond))
        with_text, without = jnp.split(denoise(jnp.concatenate([x, x]), sigma, both), 2)
        return with_text + (jnp.asarray(scale, x.dtype) - 1) * (with_text - without)

    return guided


def within(plain: Denoiser, guided: Denoiser, sigma_lo: ArrayLike, sigma_hi: ArrayLike) -> Denoiser:
    """`guided` where sigma_lo < sigma <= sigma_hi, else `plain`; only one runs (Kynkäänniemi et al. 2024)."""

    def denoise(x: Image, sigma: Scalar, cond: Cond) -> Image:
        return jax.lax.cond((sigma_lo < sigma) & (sigma <= sigma_hi), guided, plain, x, sigma, cond)

    return denoise


def dynamic_threshold(denoise: Denoiser, percentile: ArrayLike = 99.5) -> Denoiser:
    """Imagen's: x_0 of each example is clipped to [-s, s] and divided by s, its percentile of |x_0| if that is over 1.

    For pictures in [-1, 1], around the guidance that saturates them. Percentile 100 only ever scales.
    """

    def thresholded(x: Image, sigma: Scalar, cond: Cond) -> Image:
        x_0 = denoise(x, sigma, cond)
        size = jnp.percentile(jnp.abs(x_0), jnp.asarray(percentile, x_0.dtype), axis=(1, 2, 3), keepdims=True)
        size = jnp.maximum(size, 1)
        return jnp.clip(x_0, -size, size) / size

    return thresholded


def static_threshold(denoise: Denoiser) -> Denoiser:
    """x_0 clipped to [-1, 1]."""
    return lambda x, sigma, cond: jnp.clip(denoise(x, sigma, cond), -1, 1)


def drop(cond: Cond, null_cond: Cond, probability: ArrayLike, keys: Keys) -> Cond:
    """The training half of cfg: each example, by its own key, loses its text with this probability."""
    lost = uniform(for_purpose(keys, "drop")) < probability

    def choose(kept, null):
        return jnp.where(lost.reshape(lost.shape + (1,) * (kept.ndim - 1)), null, kept)

    return jax.tree.map(choose, cond, _of_batch(null_cond, cond))


def _of_batch(null_cond: Cond, cond: Cond) -> Cond:
    if [n.shape[1:] for n in null_cond] != [c.shape[1:] for c in cond]:
        shapes = f"{null_cond.text_emb.shape[1:]} and {cond.text_emb.shape[1:]}"
        raise ValueError(f"null_cond and cond differ in text length or width, {shapes}: encode both in the same way")
    return jax.tree.map(lambda n, c: jnp.broadcast_to(n, c.shape).astype(c.dtype), null_cond, cond)
