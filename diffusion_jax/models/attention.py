"""Where positions of a picture look at each other, and at the words of a sentence."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from diffusion_jax.models.heads import query_key_value
from diffusion_jax.models.normalization import GroupNorm
from diffusion_jax.models.projection import project
from diffusion_jax.types import Cond, Image


def attend(query, key, value, heads: int, mask=None):
    """Multi-head scaled dot-product attention of (batch, length, dim) arrays; mask: (batch, key length), True = seen.

    The logits and their softmax are float32. A row that may see nothing at all gets the mean of its values, not NaN.
    """
    split = [a.reshape(*a.shape[:2], heads, a.shape[-1] // heads) for a in (query, key, value)]
    if mask is not None:
        mask = mask[:, None, None, :]
    out = jax.nn.dot_product_attention(*split, mask=mask)
    return out.reshape(query.shape)


class SelfAttention(nn.Module):
    """x + attention of a picture's positions among themselves. Its last projection begins at zero.

    perturbed: each position sees itself alone, so that its value is passed on (Ahn et al. 2024).
    """

    head_dim: int = 64
    dtype: DTypeLike = jnp.float32
    perturbed: bool = False

    @nn.compact
    def __call__(self, x: Image) -> Image:
        batch, height, width, channels = x.shape
        heads = max(channels // self.head_dim, 1)
        h = GroupNorm(name="norm")(x).astype(self.dtype).reshape(batch, height * width, channels)
        query, key, value = query_key_value(h, heads, self.dtype, "qkv")
        h = value if self.perturbed else attend(query, key, value, heads)
        h = project(h, channels, self.dtype, "out", kernel_init=nn.initializers.zeros)
        return x + h.reshape(x.shape)


class CrossAttention(nn.Module):
    """x + attention from a picture's positions to the words. Its last projection begins at zero."""

    head_dim: int = 64
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Image, cond: Cond) -> Image:
        batch, height, width, channels = x.shape
        heads = max(channels // self.head_dim, 1)
        h = GroupNorm(name="norm")(x).astype(self.dtype).reshape(batch, height * width, channels)
        text = nn.LayerNorm(dtype=self.dtype, name="text_norm")(cond.text_emb)
        query = project(h, channels, self.dtype, "query", use_bias=False)
        key_value = project(text, 2 * channels, self.dtype, "key_value", use_bias=False)
        h = attend(query, *jnp.split(key_value, 2, axis=-1), heads, cond.text_mask)
        h = project(h, channels, self.dtype, "out", kernel_init=nn.initializers.zeros)
        return x + h.reshape(x.shape)
