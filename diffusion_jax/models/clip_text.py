"""The text half of CLIP: captions as tokens in, one vector a token out, and one for the whole caption.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (2021), section 2.4: a pre-norm
transformer with learned positions in which each token sees itself and those before it, so that the end token is the
first that has seen the caption, and what stands after it changes nothing before it. OpenAI's checkpoints have
"quick_gelu", x * sigmoid(1.702 x), where most of OpenCLIP's have "gelu". Initial scales are those of OpenAI's code.

With `dtype=jnp.bfloat16` the projections and attention compute in bfloat16; parameters, statistics, attention logits,
the sum over layers and the output stay float32.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from diffusion_jax.models.projection import project
from diffusion_jax.types import Keys

EPSILON = 1e-5  # of every norm
ACTIVATIONS = {"quick_gelu": lambda x: x * nn.sigmoid(1.702 * x), "gelu": partial(nn.gelu, approximate=False)}


def _project(x: Array, features: int, stddev: float, dtype: DTypeLike, name: str, use_bias: bool = True) -> Array:
    return project(x, features, dtype, name, use_bias=use_bias, kernel_init=nn.initializers.normal(stddev))


# The fast variance, E[x^2] - E[x]^2, cancels where the mean is large.
_norm = partial(nn.LayerNorm, epsilon=EPSILON, use_fast_variance=False)


class Attention(nn.Module):
    """Self-attention in which a token sees itself and the unmasked ones before it."""

    heads: int
    layers: int  # of the encoder: the more there are, the less each adds at first
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch length dim"], mask: Bool[Array, "batch length"]
    ) -> Float[Array, "batch length dim"]:
        dim = x.shape[-1]
        q, k, v = (
            _project(x, dim, dim**-0.5, self.dtype, name).reshape(*x.shape[:-1], self.heads, dim // self.heads)
            for name in "qkv"
        )
        # A row without any key that may be seen averages its values: finite, and no position that counts sees it.
        y = jax.nn.dot_product_attention(q, k, v, mask=mask[:, None, None, :], is_causal=True)
        return _project(y.reshape(x.shape), dim, (2 * self.layers * dim) ** -0.5, self.dtype, "out")


class Block(nn.Module):
    """Attention, then feed-forward: each normalizes its input and adds to it."""

    d_ff: int
    heads: int
    layers: int
    activation: str
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch length dim"], mask: Bool[Array, "batch length"]
    ) -> Float[Array, "batch length dim"]:
        dim = x.shape[-1]
        y = _norm(dtype=self.dtype, name="attention_norm")(x)
        y = Attention(self.heads, self.layers, self.dtype, name="attention")(y, mask)
        x = x + y.astype(x.dtype)
        y = _norm(dtype=self.dtype, name="feed_forward_norm")(x)
        y = ACTIVATIONS[self.activation](_project(y, self.d_ff, (2 * dim) ** -0.5, self.dtype, "fc1"))
        return x + _project(y, dim, (2 * self.layers * dim) ** -0.5, self.dtype, "fc2").astype(x.dtype)


class ClipTextEncoder(nn.Module):
    """The text encoder of CLIP, without a tokenizer. It has no dropout, and no use for keys of it.

    skip: how many of the last blocks are left out of the tokens' vectors; `pooled` always goes through all of them.
    final_norm: whether the tokens' vectors are normalized. Both change no parameters: `module.clone(skip=1)`.
    In diffusers, whose clip_skip counts differently:

        pipeline                          skip, clip_skip=None   skip, clip_skip=n   final_norm   pooled
        Stable Diffusion 1.x              0                      n                   True         not used
        2.x (its file lacks the last      0                      n                   True         not used
             of 24 blocks)
        XL, both encoders                 1                      n + 1               False        of the second
        3, both CLIPs                     1                      n + 1               False        of both
        Flux                              not used               not used            not used     without projection

    All of them show the network the padding too: their mask is True everywhere.

    end_token: at whose first place `pooled` reads; None: at that of the highest token of the row, as transformers does
    where a config says eos_token_id 2. projection: width of `pooled` after the text projection; 0: there is none.

    Raises ValueError for heads that do not divide dim, an unknown activation and a skip beyond the layers.
    """

    vocab: int
    dim: int
    d_ff: int
    heads: int
    layers: int
    max_length: int = 77
    activation: str = "quick_gelu"
    end_token: int | None = 49407
    projection: int = 0
    skip: int = 0
    final_norm: bool = True
    dtype: DTypeLike = jnp.float32

    def __post_init__(self):
        super().__post_init__()
        if self.dim % self.heads:
            raise ValueError(f"{self.heads} heads do not divide a dim of {self.dim}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"the activation is {self.activation!r}; CLIP here has {' or '.join(ACTIVATIONS)}")
        if not 0 <= self.skip <= self.layers:
            raise ValueError(f"skip is {self.skip}; of {self.layers} blocks, 0 to {self.layers} can be left out")

    def __call__(
        self,
        tokens: Int[Array, "batch length"],
        mask: Bool[Array, "batch length"],
        dropout_keys: Keys | None = None,
    ) -> Float[Array, "batch length dim"]:
        """Embeds tokens; True in `mask` marks those that are seen.

        What stands at masked positions changes nothing, and their output is zero. Positions count from the row's start,
        so padding goes after the text. A token outside [0, vocab) gives NaN. Raises ValueError beyond max_length.
        """
        return self.with_pooled(tokens, mask)[0]

    def pooled(
        self, tokens: Int[Array, "batch length"], mask: Bool[Array, "batch length"]
    ) -> Float[Array, "batch pooled"]:
        """One vector a caption: the normalized last state at the end token, projected where there is a projection.

        A row that has no end token among its unmasked ones is read at its start, as in transformers, where nothing of
        the caption is seen; a row without text gives zero.
        """
        return self.with_pooled(tokens, mask)[1]

    @nn.compact
    def with_pooled(
        self, tokens: Int[Array, "batch length"], mask: Bool[Array, "batch length"]
    ) -> tuple[Float[Array, "batch length dim"], Float[Array, "batch pooled"]]:
        """The vectors of the tokens and of the caption at once. Under jit, what goes unused is not computed."""
        length = tokens.shape[1]
        if length > self.max_length:
            raise ValueError(
                f"captions of {length} tokens, where CLIP has {self.max_length} positions: cut them shorter"
            )
        embed = nn.Embed(self.vocab, self.dim, embedding_init=nn.initializers.normal(0.02), name="token_embedding")
        places = self.param("position_embedding", nn.initializers.normal(0.01), (self.max_length, self.dim))
        states = [embed(tokens).astype(jnp.float32) + places[None, :length].astype(jnp.float32)]
        for i in range(self.layers):
            block = Block(self.d_ff, self.heads, self.layers, self.activation, self.dtype, name=f"block_{i}")
            states.append(block(states[-1], mask))
        norm, seen = _norm(name="final_norm"), mask[:, :, None]
        last, kept = norm(states[-1]), states[-1 - self.skip]
        text_emb = norm(kept) if self.final_norm else kept
        is_end = tokens if self.end_token is None else (tokens == self.end_token).astype(jnp.int32)
        end = jnp.where(mask, is_end, -1).argmax(axis=1)  # the first of the greatest
        pooled = jnp.take_along_axis(jnp.where(seen, last, 0.0), end[:, None, None], axis=1)[:, 0]
        if self.projection:
            pooled = _project(pooled, self.projection, self.dim**-0.5, self.dtype, "text_projection", use_bias=False)
        return jnp.where(seen, text_emb, 0.0), pooled.astype(jnp.float32)
