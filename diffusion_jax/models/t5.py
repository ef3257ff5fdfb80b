"""The T5 text encoder: captions as tokens in, one vector a token out.

Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer" (2020), section 2.1:
a pre-norm transformer whose norms neither center nor shift, where positions act only as a learned bias on the attention
logits, shared by all layers (in umT5 each has its own), and where the logits are not divided by sqrt(d_kv): the query
projection starts out that much smaller. Two feed-forwards are in use: ReLU (v1.0) and GELU in its tanh form times a
linear gate (v1.1; Shazeer, "GLU Variants Improve Transformer", 2020). Initial scales are those of transformers' T5,
after Mesh TensorFlow's.

With `dtype=jnp.bfloat16` the projections and attention compute in bfloat16; parameters, statistics, attention logits,
the sum over layers and the output stay float32.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from diffusion_jax.models.dropout import drop
from diffusion_jax.models.projection import project
from diffusion_jax.types import Keys


def position_buckets(length: int, buckets: int, max_distance: int) -> Int[np.ndarray, "length length"]:
    """The bucket in [0, buckets) of every pair (query position, key position).

    Half of the buckets are for keys after the query, half for the others. The first half of each are single distances,
    the second grow geometrically up to `max_distance`; whatever is farther shares the last one.

    Raises ValueError when `buckets` leaves no single distance or `max_distance` lies among them.
    """
    side = buckets // 2
    single = side // 2
    if single < 1 or max_distance <= single:
        raise ValueError(f"T5 needs buckets >= 4 and max_distance > buckets // 4: got {buckets} and {max_distance}")
    offsets = np.arange(length)[None, :] - np.arange(length)[:, None]
    distance = np.abs(offsets)
    fraction = np.log(np.maximum(distance, 1) / single) / np.log(max_distance / single)
    # 1e-9: a distance exactly on an edge belongs above it, whichever way its logarithm was rounded.
    wide = single + np.floor(fraction * (side - single) + 1e-9).astype(np.int32)
    bucket = np.where(distance < single, distance, np.minimum(wide, side - 1))
    return (bucket + side * (offsets > 0)).astype(np.int32)


def _project(x: Array, features: int, stddev: float, dtype: DTypeLike, name: str) -> Array:
    return project(x, features, dtype, name, use_bias=False, kernel_init=nn.initializers.normal(stddev))


class Attention(nn.Module):
    """Self-attention with an additive bias and no scaling of its logits."""

    heads: int
    d_kv: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch length dim"],
        mask: Bool[Array, "batch length"],
        bias: Float[Array, "1 heads length length"],
    ) -> Float[Array, "batch length dim"]:
        dim, inner = x.shape[-1], self.heads * self.d_kv
        stddevs = {"q": (dim * self.d_kv) ** -0.5, "k": dim**-0.5, "v": dim**-0.5}
        q, k, v = (
            _project(x, inner, stddev, self.dtype, name).reshape(*x.shape[:-1], self.heads, self.d_kv)
            for name, stddev in stddevs.items()
        )
        # A row without any unmasked key averages its values: finite, and no position that counts sees it.
        y = jax.nn.dot_product_attention(q, k, v, bias, mask[:, None, None, :], scale=1.0)
        return _project(y.reshape(*x.shape[:-1], inner), dim, inner**-0.5, self.dtype, "o")


class FeedForward(nn.Module):
    """ReLU between two projections (v1.0), or GELU times a linear gate (v1.1)."""

    d_ff: int
    gated: bool
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch length dim"], dropout_keys: Keys | None = None
    ) -> Float[Array, "batch length dim"]:
        dim = x.shape[-1]
        if self.gated:
            gate = nn.gelu(_project(x, self.d_ff, dim**-0.5, self.dtype, "wi_0"), approximate=True)
            y = gate * _project(x, self.d_ff, dim**-0.5, self.dtype, "wi_1")
        else:
            y = nn.relu(_project(x, self.d_ff, dim**-0.5, self.dtype, "wi"))
        y = drop(y, self.dropout, dropout_keys, name="dropout")
        return _project(y, dim, self.d_ff**-0.5, self.dtype, "wo")


class Block(nn.Module):
    """Attention, then feed-forward: each normalizes its input and adds to it."""

    heads: int
    d_kv: int
    d_ff: int
    gated: bool
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch length dim"],
        mask: Bool[Array, "batch length"],
        bias: Float[Array, "1 heads length length"],
        dropout_keys: Keys | None = None,
    ) -> Float[Array, "batch length dim"]:
        y = nn.RMSNorm(dtype=self.dtype, name="attention_norm")(x)
        y = Attention(self.heads, self.d_kv, self.dtype, name="attention")(y, mask, bias)
        x = x + drop(y, self.dropout, dropout_keys, name="attention_dropout").astype(x.dtype)
        y = nn.RMSNorm(dtype=self.dtype, name="feed_forward_norm")(x)
        y = FeedForward(self.d_ff, self.gated, self.dropout, self.dtype, name="feed_forward")(y, dropout_keys)
        return x + drop(y, self.dropout, dropout_keys, name="feed_forward_dropout").astype(x.dtype)


class T5Encoder(nn.Module):
    """The encoder half of T5, without a tokenizer.

    `dropout` (where there are `dropout_keys`, one a caption) acts where T5's does, except on attention weights.
    """

    vocab: int
    dim: int
    d_kv: int  # width of one head; heads * d_kv need not be dim
    d_ff: int
    heads: int
    layers: int
    gated: bool = True
    buckets: int = 32
    max_distance: int = 128
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32
    bias_per_layer: bool = False

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
        embed = nn.Embed(self.vocab, self.dim, embedding_init=nn.initializers.normal(1.0), name="token_embedding")
        buckets = jnp.asarray(position_buckets(tokens.shape[1], self.buckets, self.max_distance))

        def position_bias(name):
            init = nn.initializers.normal(self.dim**-0.5)
            table = nn.Embed(self.buckets, self.heads, embedding_init=init, name=name)
            return table(buckets).astype(jnp.float32).transpose(2, 0, 1)[None]

        bias = None if self.bias_per_layer else position_bias("position_bias")
        x = drop(embed(tokens).astype(jnp.float32), self.dropout, dropout_keys, name="token_dropout")
        for i in range(self.layers):
            bias = position_bias(f"position_bias_{i}") if self.bias_per_layer else bias
            block = Block(self.heads, self.d_kv, self.d_ff, self.gated, self.dropout, self.dtype, name=f"block_{i}")
            x = block(x, mask, bias, dropout_keys)
        x = drop(nn.RMSNorm(name="final_norm")(x), self.dropout, dropout_keys, name="final_dropout")
        return jnp.where(mask[:, :, None], x, 0.0)
