"""EfficientNet-Lite0, an image classifier without its training: pictures to 1,280 features, and to ImageNet's classes.

Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks" (2019), table 1, in the variant
of tensorflow/tpu (efficientnet/lite): ReLU6 in place of swish, no squeeze-and-excitation. Batch norms are folded into
the convolutions before them, so that each of these has a bias, and nothing is left to train.
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from diffusion_jax.types import Image

SIZE = 224  # pixels of a side, in training
STEM, FEATURES, CLASSES = 32, 1280, 1000


class Stage(NamedTuple):
    """Blocks of one size; the first of them has the stride, and all others a shortcut."""

    blocks: int
    window: int
    stride: int
    expansion: int
    channels: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


class Depthwise(nn.Module):
    """A convolution of each channel by itself, zero beyond the edges: the sum of a window's pixels times its weights.

    Where the padding is odd, the side at the end has the larger half, as TensorFlow's "SAME" has it. The sum is spelled
    out: XLA on CPU takes ten times as long for a convolution in as many groups as there are channels.
    """

    window: int
    stride: int

    @nn.compact
    def __call__(self, x: Image) -> Float[Array, "batch out_height out_width channel"]:
        batch, *size, channels = x.shape
        kernel = self.param("kernel", nn.initializers.he_normal(), (self.window, self.window, 1, channels))
        out = [-(-pixels // self.stride) for pixels in size]
        reach = [(pixels - 1) * self.stride + 1 for pixels in out]
        missing = [max(to + self.window - 1 - pixels, 0) for to, pixels in zip(reach, size, strict=True)]
        x = jnp.pad(x, ((0, 0), *((m // 2, m - m // 2) for m in missing), (0, 0)))
        y = jnp.broadcast_to(
            self.param("bias", nn.initializers.zeros, (channels,))[None, None, None], (batch, *out, channels)
        )
        for row in range(self.window):
            for column in range(self.window):
                last = (batch, row + reach[0], column + reach[1], channels)
                pixels = lax.slice(x, (0, row, column, 0), last, (1, self.stride, self.stride, 1))
                y = y + pixels * kernel[row, column, 0][None, None, None]
        return y


class Block(nn.Module):
    """More channels, a window of each, and fewer channels again; the input is added where the shapes allow it.

    Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks" (2018), figure 4.
    """

    stage: Stage
    stride: int

    @nn.compact
    def __call__(self, x: Image) -> Float[Array, "batch out_height out_width features"]:
        y = x
        if self.stage.expansion > 1:
            y = nn.relu6(nn.Conv(x.shape[-1] * self.stage.expansion, (1, 1), name="expand")(y))
        y = nn.relu6(Depthwise(self.stage.window, self.stride, name="depthwise")(y))
        y = nn.Conv(self.stage.channels, (1, 1), name="project")(y)
        return x + y if x.shape == y.shape else y


class EfficientNetLite0(nn.Module):
    """Pictures, float32, as the weights want them: (value of 0 to 255 - 127) / 128, of 224 x 224 pixels in training.

    Other sizes are possible. Returns the features, averaged over the picture and each in [0, 6], and the logits of the
    1,000 classes of ImageNet, which cost nothing under jit where they are not used.
    """

    @nn.compact
    def __call__(self, pictures: Image) -> tuple[Float[Array, "batch 1280"], Float[Array, "batch 1000"]]:
        x = nn.relu6(nn.Conv(STEM, (3, 3), strides=2, name="stem")(pictures))
        number = 0
        for stage in STAGES:
            for stride in (stage.stride, *(1,) * (stage.blocks - 1)):
                x = Block(stage, stride, name=f"block_{number}")(x)
                number += 1
        x = nn.relu6(nn.Conv(FEATURES, (1, 1), name="head")(x))
        features = x.mean((1, 2))
        return features, nn.Dense(CLASSES, name="classes")(features)
