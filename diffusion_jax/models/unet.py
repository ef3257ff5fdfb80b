"""The UNet: a picture with noise, its noise level and a sentence in; a prediction of the picture's size out."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion_jax.models.attention import CrossAttention, SelfAttention
from diffusion_jax.models.blocks import ResidualBlock, conv, depth_to_space, space_to_depth
from diffusion_jax.models.embeddings import ConditionVector
from diffusion_jax.models.normalization import GroupNorm
from diffusion_jax.types import Cond, Image, LogSnr


class Stage(nn.Module):
    """One residual block, and the attention that this resolution has."""

    features: int
    self_attention: bool
    cross_attention: bool
    head_dim: int
    dropout: float
    dtype: jnp.dtype
    resample: str | None = None
    deterministic: bool = True

    @nn.compact
    def __call__(self, x, vector, cond):
        x = ResidualBlock(self.features, self.resample, self.dropout, self.dtype, name="residual")(
            x, vector, self.deterministic
        )
        if self.self_attention:
            x = SelfAttention(self.head_dim, self.dtype, name="self_attention")(x)
        if self.cross_attention:
            x = CrossAttention(self.head_dim, self.dtype, name="cross_attention")(x, cond)
        return x


class UNet(nn.Module):
    """Down to a small picture with many channels, up again with skips between equals (Ronneberger et al. 2015; ADM, 2021).

    x_t: (batch, height, width, channel), of about unit variance; log_snr: (batch,); cond: embedded text and its mask.
    Returns float32 of the shape of x_t, zero at initialization.

    channels: width of the finest level; multipliers: one per level, the width there as a multiple of `channels`.
    blocks: residual blocks per level on the way down; the way up has one more, for the skip of the level's first picture.
    self_attention, cross_attention: the heights of the feature maps (after patching) that have it, e.g. (16, 8).
    patch: cut the picture into patch x patch squares first, which makes everything patch^2 times cheaper.
    dtype: of the compute; parameters, norms' statistics and the output stay float32.
    remat: None, or the name of a policy of jax.checkpoint_policies for each stage ("nothing_saveable" saves most memory).
    Raises ValueError where the picture cannot be halved often enough.
    """

    channels: int
    multipliers: tuple[int, ...]
    blocks: int = 2
    self_attention: tuple[int, ...] = ()
    cross_attention: tuple[int, ...] = ()
    head_dim: int = 64
    patch: int = 1
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32
    remat: str | None = None

    @nn.compact
    def __call__(self, x_t: Image, log_snr: LogSnr, cond: Cond, deterministic: bool = True) -> Image:
        divisor = self.patch * 2 ** (len(self.multipliers) - 1)
        if x_t.shape[1] % divisor or x_t.shape[2] % divisor:
            raise ValueError(
                f"a picture of {x_t.shape[1]}x{x_t.shape[2]} pixels does not divide by {divisor}, "
                f"which patch={self.patch} and {len(self.multipliers)} levels need: change the resolution or the model"
            )
        stage_class = Stage if self.remat is None else nn.remat(Stage, policy=getattr(jax.checkpoint_policies, self.remat))

        def stage(name, features, height, resample=None):
            return stage_class(
                features, height in self.self_attention, height in self.cross_attention, self.head_dim,
                self.dropout, self.dtype, resample, deterministic, name=name,
            )  # fmt: skip

        vector = ConditionVector(4 * self.channels, name="condition")(log_snr, cond).astype(self.dtype)
        x = space_to_depth(x_t, self.patch).astype(self.dtype)
        x = conv(self.channels, 3, self.dtype, "conv_in")(x)
        skips = [x]
        for level, multiplier in enumerate(self.multipliers):
            features = multiplier * self.channels
            if level > 0:
                halved = ResidualBlock(x.shape[-1], "halve", self.dropout, self.dtype, name=f"down_{level}_halve")
                x = halved(x, vector, deterministic)
                skips.append(x)
            for block in range(self.blocks):
                x = stage(f"down_{level}_{block}", features, x.shape[1])(x, vector, cond)
                skips.append(x)

        x = stage("middle_0", x.shape[-1], x.shape[1])(x, vector, cond)
        x = ResidualBlock(x.shape[-1], None, self.dropout, self.dtype, name="middle_1")(x, vector, deterministic)

        for level, multiplier in reversed(list(enumerate(self.multipliers))):
            features = multiplier * self.channels
            for block in range(self.blocks + 1):
                x = jnp.concatenate([x, skips.pop()], axis=-1)
                x = stage(f"up_{level}_{block}", features, x.shape[1])(x, vector, cond)
            if level > 0:
                doubled = ResidualBlock(x.shape[-1], "double", self.dropout, self.dtype, name=f"up_{level}_double")
                x = doubled(x, vector, deterministic)

        x = nn.silu(GroupNorm(name="norm_out")(x))
        x = conv(self.patch**2 * x_t.shape[-1], 3, self.dtype, "conv_out", zero=True)(x)
        return depth_to_space(x, self.patch).astype(jnp.float32)
