"""What a UNet is made of: convolutions, residual blocks, and the changes of resolution between them."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from diffusion_jax.models.convolution import convolve
from diffusion_jax.models.dropout import drop
from diffusion_jax.models.normalization import GroupNorm
from diffusion_jax.models.projection import project
from diffusion_jax.types import Image, Keys

Changed = Float[Array, "batch new_height new_width new_channel"]  # a feature map of another size


def conv(features: int, size: int, dtype: DTypeLike, name: str, zero: bool = False) -> nn.Conv:
    """A convolution that keeps the picture's size. zero: its weights begin at zero, so its branch begins silent."""
    init = {"kernel_init": nn.initializers.zeros} if zero else {}
    return nn.Conv(
        features, (size, size), padding="SAME", dtype=dtype, name=name, conv_general_dilated=convolve, **init
    )


def space_to_depth(x: Image, patch: int) -> Changed:
    """Cut a picture into patch x patch squares and stack each square's pixels as channels (pixel unshuffle)."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // patch, patch, width // patch, patch, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height // patch, width // patch, patch * patch * channels)


def depth_to_space(x: Image, patch: int) -> Changed:
    """The inverse of `space_to_depth`."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height, width, patch, patch, channels // patch**2)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height * patch, width * patch, channels // patch**2)


def halve(x: Image) -> Changed:
    """Half the resolution, by the mean of each 2 x 2 square."""
    return nn.avg_pool(x, (2, 2), (2, 2))


def double(x: Image) -> Changed:
    """Twice the resolution, by repeating each pixel."""
    batch, height, width, channels = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None, :], (batch, height, 2, width, 2, channels)).reshape(
        batch, 2 * height, 2 * width, channels
    )


class ResidualBlock(nn.Module):
    """norm, SiLU, convolution, twice, beside a skip; the second norm is scaled and shifted by the condition vector.

    x: (batch, height, width, channel); vector: (batch, dim) -> (batch, height', width', features), where resample
    ("halve", "double" or None) changes the resolution inside the block, of the branch and the skip alike (BigGAN's, as
    in ADM: Dhariwal & Nichol 2021, section 3). The last convolution begins at zero: at first the block is its skip,
    and nothing else if `skipped`. dropout_keys: see `models.dropout`; without them there is none.
    """

    features: int
    resample: str | None = None
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32
    skipped: bool = False

    @nn.compact
    def __call__(self, x: Image, vector: Float[Array, "batch dim"], dropout_keys: Keys | None = None) -> Changed:
        change = {None: lambda a: a, "halve": halve, "double": double}[self.resample]

        def bypass():
            y = change(x)
            return y if y.shape[-1] == self.features else project(y, self.features, self.dtype, "skip")

        if self.skipped:
            return bypass()
        h = change(nn.silu(GroupNorm(name="norm_in")(x)))
        h = conv(self.features, 3, self.dtype, "conv_in")(h)
        film = nn.Dense(2 * self.features, dtype=self.dtype, name="film")(nn.silu(vector))
        h = nn.silu(GroupNorm(name="norm_out")(h, film))
        h = drop(h, self.dropout, dropout_keys, name="dropout")
        h = conv(self.features, 3, self.dtype, "conv_out", zero=True)(h)
        return bypass() + h
