"""The BERT text encoder: captions as tokens in, one vector a token out.

Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding" (2019), section 3: the
encoder of Vaswani et al. (2017), where each sublayer's sum is normalized, with learned positions and GELU. Sentence
encoders such as MiniLM's are BERTs of other sizes. Initial kernels and tables have a standard deviation of 0.02.

With `dtype=jnp.bfloat16` the projections and attention compute in bfloat16; parameters, norms, attention logits, the
sum over layers and the output stay float32.
"""

from functools import partial

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from diffusion_jax.models.attention import attend
from diffusion_jax.models.dropout import drop
from diffusion_jax.models.projection import project
from diffusion_jax.types import Keys

ACTIVATIONS = {  # by their names in transformers
    "gelu": partial(nn.gelu, approximate=False),
    "gelu_new": partial(nn.gelu, approximate=True),
    "gelu_pytorch_tanh": partial(nn.gelu, approximate=True),
    "relu": nn.relu,
    "silu": nn.silu,
}
INIT = nn.initializers.normal(0.02)


def _norm(epsilon: float, name: str) -> nn.LayerNorm:
    # The fast variance is a difference of two means, which loses the digits that a small variance consists of.
    return nn.LayerNorm(epsilon, dtype=jnp.float32, use_fast_variance=False, name=name)


class Block(nn.Module):
    """Attention, then feed-forward: each is added to its input, and the sum is normalized."""

    d_ff: int
    heads: int
    activation: str
    epsilon: float
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch length dim"],
        mask: Bool[Array, "batch length"],
        dropout_keys: Keys | None = None,
    ) -> Float[Array, "batch length dim"]:
        dim = x.shape[-1]
        dropped = partial(drop, rate=self.dropout, keys=dropout_keys)
        dense = partial(project, dtype=self.dtype, kernel_init=INIT)
        y = attend(*(dense(x, dim, name=name) for name in ("query", "key", "value")), self.heads, mask)
        y = dropped(dense(y, dim, name="attention_out"), name="attention_dropout")
        x = _norm(self.epsilon, "attention_norm")(x + y.astype(x.dtype))
        y = ACTIVATIONS[self.activation](dense(x, self.d_ff, name="wi"))
        y = dropped(dense(y, dim, name="wo"), name="feed_forward_dropout")
        return _norm(self.epsilon, "feed_forward_norm")(x + y.astype(x.dtype))


class BertEncoder(nn.Module):
    """BERT without its pooler and heads, and without a tokenizer; all tokens are of type 0, the first sentence.

    `dropout` (where there are `dropout_keys`, one a caption) acts where BERT's does, except on attention weights.
    Raises ValueError for an activation not in `ACTIVATIONS` and for heads that do not divide dim.
    """

    vocab: int
    dim: int
    d_ff: int
    heads: int
    layers: int
    positions: int = 512  # the longest text
    types: int = 2  # only the first is used; the others are there for checkpoints
    activation: str = "gelu"
    epsilon: float = 1e-12  # of the norms
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    def __post_init__(self):
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"the activation is {self.activation!r}; BERT here has {', '.join(ACTIVATIONS)}")
        if self.dim % self.heads:
            raise ValueError(f"a width of {self.dim} does not divide among {self.heads} heads")
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        tokens: Int[Array, "batch length"],
        mask: Bool[Array, "batch length"],
        dropout_keys: Keys | None = None,
    ) -> Float[Array, "batch length dim"]:
        """Embeds tokens; True in `mask` marks text.

        What stands at masked positions changes nothing, and their output is zero. Positions are counted from the left
        end, padding included: text that is padded on the left is embedded as text that begins later, which published
        BERTs were not trained on. A token outside [0, vocab) gives NaN. Raises ValueError for more than `positions`.
        """
        if (length := tokens.shape[1]) > self.positions:
            raise ValueError(f"the text has {length} tokens and this BERT has {self.positions} positions: cut the text")

        def embed(entries: int, indices: Int[Array, "rows length"], name: str) -> Float[Array, "rows length dim"]:
            return nn.Embed(entries, self.dim, embedding_init=INIT, name=name)(indices).astype(jnp.float32)

        x = embed(self.vocab, tokens, "token_embedding")
        x = x + embed(self.types, jnp.zeros((1, 1), jnp.int32), "type_embedding")
        x = x + embed(self.positions, jnp.arange(length)[None], "position_embedding")
        x = _norm(self.epsilon, "embedding_norm")(x)
        x = drop(x, self.dropout, dropout_keys, name="embedding_dropout")
        for i in range(self.layers):
            block = Block(
                self.d_ff, self.heads, self.activation, self.epsilon, self.dropout, self.dtype, name=f"block_{i}"
            )
            x = block(x, mask, dropout_keys)
        return jnp.where(mask[:, :, None], x, 0.0)
