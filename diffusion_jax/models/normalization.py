"""GroupNorm as one multiply-add for each channel, with the conditioning's scale and shift folded in."""

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from diffusion_jax.models.fusion import computed_once
from diffusion_jax.types import Image


class GroupNorm(nn.Module):
    """Normalize groups of channels over a picture, then scale and shift (Wu & He 2018, section 3.1).

    x: (batch, height, width, channel). film: (batch, 2 * channel) or None: a scale and a shift for each picture and
    channel, applied after the norm's own as norm(x) * (1 + scale) + shift (ADM: Dhariwal & Nichol 2021, section 3).
    Statistics are float32; the result has the dtype of x. Mean, variance and film become one factor and one offset per
    channel, so x is read twice and written once.
    groups: at most this many; the largest divisor of the channels not above it is taken.
    """

    groups: int = 32
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Image, film: Float[Array, "batch two_channels"] | None = None) -> Image:
        batch, height, width, channels = x.shape
        groups = next(g for g in range(min(self.groups, channels), 0, -1) if channels % g == 0)
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))

        x = computed_once(x)
        wide = x.astype(jnp.float32)
        size = height * width * (channels // groups)
        mean, square = (
            s.reshape(batch, groups, -1).sum(axis=-1) / size for s in (wide.sum((1, 2)), lax.square(wide).sum((1, 2)))
        )
        inverse = lax.rsqrt(jnp.maximum(square - lax.square(mean), 0.0) + self.epsilon)
        mean, inverse = (jnp.repeat(s, channels // groups, axis=1) for s in (mean, inverse))
        factor = inverse * scale[None, :]
        offset = bias[None, :] - mean * factor
        if film is not None:
            film_scale, film_shift = jnp.split(film.astype(jnp.float32), 2, axis=-1)
            factor, offset = factor * (1 + film_scale), offset * (1 + film_scale) + film_shift
        factor, offset = computed_once((factor, offset))
        return (wide * factor[:, None, None, :] + offset[:, None, None, :]).astype(x.dtype)
