"""How the noise level and the sentence reach the residual blocks: as one vector for each picture."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffusion_jax.types import Cond, LogSnr

SLOWEST, FASTEST = 1 / 16, 8.0  # radians for one unit of log_snr: half a turn over its whole range, and fine steps


def log_snr_features(log_snr: LogSnr, dim: int) -> Float[Array, "batch dim"]:
    """Sines and cosines of log_snr at `dim // 2` geometric frequencies.

    log_snr: (batch,), any range, though beyond +-25 the slowest wave begins to repeat. dim: even.
    After Vaswani et al. 2017 (Attention is all you need, 3.5), with frequencies chosen for log_snr, not positions.
    """
    frequencies = jnp.geomspace(SLOWEST, FASTEST, dim // 2, dtype=jnp.float32)
    angles = log_snr.astype(jnp.float32)[:, None] * frequencies[None, :]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def masked_mean(cond: Cond) -> Float[Array, "batch dim"]:
    """The mean of the text embedding over the positions that hold text; zero where there is none."""
    mask = cond.text_mask[:, :, None].astype(cond.text_emb.dtype)
    return (cond.text_emb * mask).sum(axis=1) / jnp.maximum(mask.sum(axis=1), 1.0)


class ConditionVector(nn.Module):
    """log_snr and pooled text -> one float32 vector for each picture, of size `dim`.

    The text is pooled by its masked mean and normalized, as Imagen does (Saharia et al. 2022, section 2.3):
    a residual block then sees what the picture shows even where it has no attention.
    """

    dim: int
    features: int = 128

    @nn.compact
    def __call__(self, log_snr: LogSnr, cond: Cond) -> Float[Array, "batch {self.dim}"]:
        level = nn.Dense(self.dim, name="log_snr_in")(log_snr_features(log_snr, self.features))
        level = nn.Dense(self.dim, name="log_snr_out")(nn.silu(level))
        text = nn.LayerNorm(name="text_norm")(masked_mean(cond))
        text = nn.Dense(self.dim, name="text_in")(text)
        text = nn.Dense(self.dim, name="text_out")(nn.silu(text))
        return level + text
