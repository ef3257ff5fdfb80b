"""From one vector a token to one vector a sentence."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def mean_pooled(
    text_emb: Float[Array, "batch length dim"], mask: Bool[Array, "batch length"]
) -> Float[Array, "batch dim"]:
    """The mean over a text's tokens, special ones included, at unit length: float32, and inner products are cosines.

    mask: True marks text; what stands elsewhere changes nothing, and a row without text gives zero, also as gradient.
    Reimers and Gurevych, "Sentence-BERT" (2019), section 3, as sentence-transformers' Pooling and Normalize compute it;
    encoders that were trained with another pooling (1_Pooling/config.json beside their weights) want that one.
    """
    text_emb = jnp.where(mask[:, :, None], text_emb.astype(jnp.float32), 0.0)
    mean = text_emb.sum(1) / jnp.maximum(mask.sum(1, keepdims=True), 1)
    # The least length is that of torch's normalize. The root is not of zero, whose gradient would be infinite.
    return mean * jax.lax.rsqrt(jnp.maximum((mean**2).sum(-1, keepdims=True), 1e-24))
