"""The UNet: a picture with noise, its noise level and a sentence in; a prediction of the picture's size out."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from diffusion_jax.models.attention import CrossAttention, SelfAttention
from diffusion_jax.models.blocks import Changed, ResidualBlock, conv, depth_to_space, double, space_to_depth
from diffusion_jax.models.embeddings import ConditionVector
from diffusion_jax.models.normalization import GroupNorm
from diffusion_jax.types import Cond, Image, Keys, LogSnr


class Stage(nn.Module):
    """One residual block, and the attention that this resolution has; skipped, what bypasses them is left."""

    features: int
    self_attention: bool
    cross_attention: bool
    head_dim: int
    dropout: float
    dtype: DTypeLike
    resample: str | None = None
    perturbed: bool = False
    skipped: bool = False

    @nn.compact
    def __call__(self, x, vector, cond, dropout_keys=None):
        residual = ResidualBlock(
            self.features, self.resample, self.dropout, self.dtype, skipped=self.skipped, name="residual"
        )
        x = residual(x, vector, dropout_keys)
        if self.skipped:
            return x
        if self.self_attention:
            x = SelfAttention(self.head_dim, self.dtype, perturbed=self.perturbed, name="self_attention")(x)
        if self.cross_attention:
            x = CrossAttention(self.head_dim, self.dtype, name="cross_attention")(x, cond)
        return x


class UNet(nn.Module):
    """Down to a small picture with many channels, up again with skips between equals (Ronneberger et al. 2015; ADM).

    x_t: (batch, height, width, channel), of about unit variance; log_snr: (batch,); cond: embedded text and its mask.
    dropout_keys: one for each picture, in training; without them there is no dropout.
    Returns float32 of the shape of x_t, zero at initialization.

    channels: width of the finest level; multipliers: one per level, the width there as a multiple of `channels`.
    blocks: residual blocks per level on the way down; the way up has one more, for the skip of the level's first one.
    resample: how the resolution changes. "residual": inside a residual block of its own (ADM); "convolution": by one
    convolution, which works at the smaller of the two resolutions and is so much cheaper (Imagen's Efficient U-Net).
    self_attention, cross_attention: the heights of the feature maps (after patching) that have it, e.g. (16, 8).
    patch: cut the picture into patch x patch squares first, which makes everything patch^2 times cheaper.
    dtype: of the compute; parameters, norms' statistics and the output stay float32.
    remat: None, or the name of a policy of jax.checkpoint_policies for each stage ("nothing_saveable": least memory).
    perturbed, skipped: stages by name, such as "middle_0", "down_1_0" (level, block) or "up_1_0", where each position
    attends to itself alone, or where the block and its attention are left out: a weaker network to guide by
    (`guidance.autoguidance`), made by unet.clone(perturbed=...) and applied with the same parameters. Not for init.
    Raises ValueError where the picture cannot be halved often enough, or a stage has nothing to perturb or is none.
    """

    channels: int
    multipliers: tuple[int, ...]
    blocks: int = 2
    resample: str = "residual"
    self_attention: tuple[int, ...] = ()
    cross_attention: tuple[int, ...] = ()
    head_dim: int = 64
    patch: int = 1
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32
    remat: str | None = None
    perturbed: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()

    @nn.compact
    def __call__(self, x_t: Image, log_snr: LogSnr, cond: Cond, dropout_keys: Keys | None = None) -> Image:
        divisor = self.patch * 2 ** (len(self.multipliers) - 1)
        if x_t.shape[1] % divisor or x_t.shape[2] % divisor:
            raise ValueError(
                f"a picture of {x_t.shape[1]}x{x_t.shape[2]} pixels does not divide by {divisor}, "
                f"which patch={self.patch} and {len(self.multipliers)} levels need: change the resolution or the model"
            )
        policy = self.remat and getattr(jax.checkpoint_policies, self.remat)
        stage_class = nn.remat(Stage, policy=policy) if self.remat else Stage
        weaker = {*self.perturbed, *self.skipped}

        def stage(name, features, height, resample=None):
            if name in self.skipped or height in self.self_attention:
                weaker.discard(name)
            return stage_class(
                features, height in self.self_attention, height in self.cross_attention, self.head_dim,
                self.dropout, self.dtype, resample, name in self.perturbed, name in self.skipped,
                name=name,
            )  # fmt: skip

        vector = ConditionVector(4 * self.channels, name="condition")(log_snr, cond).astype(self.dtype)
        x = space_to_depth(x_t, self.patch).astype(self.dtype)
        x = conv(self.channels, 3, self.dtype, "conv_in")(x)
        skips = [x]
        for level, multiplier in enumerate(self.multipliers):
            features = multiplier * self.channels
            if level > 0:
                x = self.change(x, "halve", x.shape[-1], f"down_{level}_halve", vector, dropout_keys)
                skips.append(x)
            for block in range(self.blocks):
                x = stage(f"down_{level}_{block}", features, x.shape[1])(x, vector, cond, dropout_keys)
                skips.append(x)

        x = stage("middle_0", x.shape[-1], x.shape[1])(x, vector, cond, dropout_keys)
        x = ResidualBlock(x.shape[-1], None, self.dropout, self.dtype, name="middle_1")(x, vector, dropout_keys)

        for level, multiplier in reversed(list(enumerate(self.multipliers))):
            features = multiplier * self.channels
            for block in range(self.blocks + 1):
                x = jnp.concatenate([x, skips.pop()], axis=-1)
                x = stage(f"up_{level}_{block}", features, x.shape[1])(x, vector, cond, dropout_keys)
            if level > 0:
                x = self.change(x, "double", self.doubled_width(level), f"up_{level}_double", vector, dropout_keys)

        if weaker:
            raise ValueError(f"no stage to skip, or with self-attention to perturb: {', '.join(sorted(weaker))}")
        x = nn.silu(GroupNorm(name="norm_out")(x))
        x = conv(self.patch**2 * x_t.shape[-1], 3, self.dtype, "conv_out", zero=True)(x)
        return depth_to_space(x, self.patch).astype(jnp.float32)

    def doubled_width(self, level: int) -> int:
        """Channels after the step up from a level: its own in ADM, already those of the finer one in the cheap way."""
        return self.channels * self.multipliers[level if self.resample == "residual" else level - 1]

    def change(self, x: Image, how: str, features: int, name: str, vector, dropout_keys) -> Changed:
        """Half or twice the resolution."""
        if self.resample == "residual":
            return ResidualBlock(features, how, self.dropout, self.dtype, name=name)(x, vector, dropout_keys)
        if self.resample != "convolution":
            raise ValueError(f"resample is {self.resample!r}: choose residual or convolution")
        if how == "halve":
            return nn.Conv(features, (3, 3), strides=(2, 2), padding="SAME", dtype=self.dtype, name=name)(x)
        return double(conv(features, 3, self.dtype, name)(x))
