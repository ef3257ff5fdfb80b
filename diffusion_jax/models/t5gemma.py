"""T5Gemma's text encoder: captions as tokens in, one vector a token out.

Zhang et al., "Encoder-Decoder Gemma: Improving the Quality-Efficiency Trade-Off via Adaptation" (2025): the blocks of
Gemma 2 (Gemma Team, "Gemma 2: Improving Open Language Models at a Practical Size", 2024) without their causal mask.
Norms stand before and after each sublayer, positions turn queries and keys (Su et al., "RoFormer", 2021), several query
heads share a key and a value, logits are kept below a bound by tanh, and every other layer looks no farther than a
window.

With `dtype=jnp.bfloat16` projections and values are bfloat16; parameters, norms, attention logits, the sum over layers
and the output stay float32.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from diffusion_jax.models.dropout import drop
from diffusion_jax.models.projection import project
from diffusion_jax.types import Keys

EPSILON = 1e-6
INIT = nn.initializers.normal(0.02)


class Norm(nn.Module):
    """Division by the root mean square, then times 1 + offset, so that a norm without effect has zeros."""

    @nn.compact
    def __call__(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
        offset = self.param("offset", nn.initializers.zeros, (x.shape[-1],))
        x = x.astype(jnp.float32)
        normed = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + EPSILON)
        return normed * (1 + offset).reshape((1,) * (x.ndim - 1) + (-1,))


def rotated(x: Float[Array, "batch length heads d_kv"], theta: float) -> Float[Array, "batch length heads d_kv"]:
    """Numbers i and i + d_kv / 2 of each position as a plane, turned by position / theta^(2 i / d_kv), in float32."""
    half = x.shape[-1] // 2
    angles = np.arange(x.shape[1])[:, None] / theta ** (np.arange(half) / half)
    cos, sin = (jnp.asarray(f(angles), jnp.float32)[None, :, None] for f in (np.cos, np.sin))
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


class Attention(nn.Module):
    """Self-attention in which each key and value serves heads / kv_heads queries."""

    heads: int
    kv_heads: int
    d_kv: int
    query_scale: float
    cap: float
    theta: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch length dim"], seen: Bool[Array, "batch length length"]
    ) -> Float[Array, "batch length dim"]:
        batch, length, dim = x.shape
        dense = partial(project, dtype=self.dtype, use_bias=False, kernel_init=INIT)
        q = dense(x, self.heads * self.d_kv, name="q").reshape(batch, length, self.heads, self.d_kv)
        k, v = (
            dense(x, self.kv_heads * self.d_kv, name=name).reshape(batch, length, self.kv_heads, self.d_kv)
            for name in "kv"
        )
        q, k = (rotated(each, self.theta).astype(self.dtype) for each in (q, k))
        q = q.reshape(batch, length, self.kv_heads, self.heads // self.kv_heads, self.d_kv)
        logits = jnp.einsum("blhgd,bmhd->bhglm", q, k, preferred_element_type=jnp.float32) * self.query_scale
        logits = jnp.tanh(logits / self.cap) * self.cap if self.cap else logits
        # A row that sees nothing averages all values: finite, and no position that counts looks at it.
        weights = jax.nn.softmax(jnp.where(seen[:, None, None], logits, -1e30), axis=-1).astype(self.dtype)
        y = jnp.einsum("bhglm,bmhd->blhgd", weights, v).reshape(batch, length, self.heads * self.d_kv)
        return dense(y, dim, name="o")


class Block(nn.Module):
    """Attention, then feed-forward by a gated GELU: each between two norms, and added to its input."""

    attention: dict
    d_ff: int
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch length dim"],
        seen: Bool[Array, "batch length length"],
        dropout_keys: Keys | None = None,
    ) -> Float[Array, "batch length dim"]:
        dropped = partial(drop, rate=self.dropout, keys=dropout_keys)
        dense = partial(project, dtype=self.dtype, use_bias=False, kernel_init=INIT)
        y = Norm(name="attention_norm")(x).astype(self.dtype)
        y = Attention(**self.attention, dtype=self.dtype, name="attention")(y, seen)
        x = x + dropped(Norm(name="attention_out_norm")(y), name="attention_dropout")
        y = Norm(name="feed_forward_norm")(x).astype(self.dtype)
        y = nn.gelu(dense(y, self.d_ff, name="gate"), approximate=True) * dense(y, self.d_ff, name="wi")
        y = dense(dropped(y, name="inner_dropout"), x.shape[-1], name="wo")
        return x + dropped(Norm(name="feed_forward_out_norm")(y), name="feed_forward_dropout")


class T5GemmaEncoder(nn.Module):
    """The encoder half of T5Gemma, without a tokenizer.

    `dropout` (where there are `dropout_keys`, one a caption) acts where T5Gemma's does, except on attention weights.
    """

    vocab: int
    dim: int
    d_kv: int  # width of one head; heads * d_kv need not be dim
    d_ff: int
    heads: int
    kv_heads: int
    layers: int
    window: int = 4096  # the largest distance that is looked at in layers 0, 2, 4, ...
    query_scale: float = 256**-0.5
    cap: float = 50.0  # of logits; 0: none
    theta: float = 10_000.0
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        tokens: Int[Array, "batch length"],
        mask: Bool[Array, "batch length"],
        dropout_keys: Keys | None = None,
    ) -> Float[Array, "batch length dim"]:
        """Embeds tokens; True in `mask` marks text, on any side of the padding.

        What stands at masked positions changes nothing, and their output is zero. A token outside [0, vocab) gives NaN.
        """
        length = tokens.shape[1]
        dropped = partial(drop, rate=self.dropout, keys=dropout_keys)
        x = nn.Embed(self.vocab, self.dim, embedding_init=INIT, name="token_embedding")(tokens).astype(jnp.float32)
        x = dropped(x * self.dim**0.5, name="token_dropout")
        near = np.abs(np.arange(length)[:, None] - np.arange(length)) <= self.window
        own = ("heads", "kv_heads", "d_kv", "query_scale", "cap", "theta")
        attention = {name: getattr(self, name) for name in own}
        for i in range(self.layers):
            seen = mask[:, None, :] & (near if i % 2 == 0 else np.ones_like(near))[None]
            x = Block(attention, self.d_ff, self.dropout, self.dtype, name=f"block_{i}")(x, seen, dropout_keys)
        x = dropped(Norm(name="final_norm")(x), name="final_dropout")
        return jnp.where(mask[:, :, None], x, 0.0)
