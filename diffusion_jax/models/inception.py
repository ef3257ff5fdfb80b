"""FID's Inception-v3, an image classifier without its training: pictures to 2,048 features, and to 1,008 classes.

Szegedy et al., "Rethinking the Inception Architecture for Computer Vision" (2016), as the graph of 2015-12-05 has it
that FID was defined by (Heusel et al. 2017), and as pytorch-fid and torch-fidelity have it after that: average pools
leave out what is beyond the edges, and the last block has a maximum in place of an average. Batch norms are folded into
the convolutions before them. The names of blocks and branches are those of torchvision and of all checkpoints.
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffusion_jax.types import Image

SIZE = 299  # pixels of a side
FEATURES, CLASSES = 2048, 1008


class Step(NamedTuple):
    """A convolution and a ReLU. With stride 2 windows stay within the picture, else there is zero beyond the edges."""

    name: str
    features: int
    window: tuple[int, int] = (1, 1)
    stride: int = 1


class Pool(NamedTuple):
    """The average or the maximum of windows of 3 x 3."""

    kind: str
    stride: int = 1


Branch = tuple[Step | Pool | tuple[Step, ...], ...]  # steps in a tuple all see one input, and their outputs are joined
WIDE, HIGH, SQUARE = (1, 7), (7, 1), (3, 3)
POOL_2 = (Pool("max", 2),)


def _double(before: str, *steps: tuple) -> Branch:
    return tuple(Step(f"{before}_{number}", *step) for number, step in enumerate(steps, 1))


def _a(pooled: int) -> tuple[Branch, ...]:
    return (
        (Step("branch1x1", 64),),
        _double("branch5x5", (48,), (64, (5, 5))),
        _double("branch3x3dbl", (64,), (96, SQUARE), (96, SQUARE)),
        (Pool("average"), Step("branch_pool", pooled)),
    )


def _c(inner: int) -> tuple[Branch, ...]:
    long = ((inner,), (inner, HIGH), (inner, WIDE), (inner, HIGH), (192, WIDE))
    return (
        (Step("branch1x1", 192),),
        _double("branch7x7", (inner,), (inner, WIDE), (192, HIGH)),
        _double("branch7x7dbl", *long),
        (Pool("average"), Step("branch_pool", 192)),
    )


def _e(pool: str) -> tuple[Branch, ...]:
    def split(name: str) -> tuple[Step, ...]:
        return Step(f"{name}a", 384, (1, 3)), Step(f"{name}b", 384, (3, 1))

    return (
        (Step("branch1x1", 320),),
        (Step("branch3x3_1", 384), split("branch3x3_2")),
        (*_double("branch3x3dbl", (448,), (384, SQUARE)), split("branch3x3dbl_3")),
        (Pool(pool), Step("branch_pool", 192)),
    )


BLOCKS: dict[str, tuple[Branch, ...]] = {
    "Mixed_5b": _a(32),
    "Mixed_5c": _a(64),
    "Mixed_5d": _a(64),
    "Mixed_6a": (
        (Step("branch3x3", 384, SQUARE, 2),),
        _double("branch3x3dbl", (64,), (96, SQUARE), (96, SQUARE, 2)),
        POOL_2,
    ),
    "Mixed_6b": _c(128),
    "Mixed_6c": _c(160),
    "Mixed_6d": _c(160),
    "Mixed_6e": _c(192),
    "Mixed_7a": (
        _double("branch3x3", (192,), (320, SQUARE, 2)),
        _double("branch7x7x3", (192,), (192, WIDE), (192, HIGH), (192, SQUARE, 2)),
        POOL_2,
    ),
    "Mixed_7b": _e("average"),
    "Mixed_7c": _e("max"),
}


class Block(nn.Module):
    """Branches that all see one input, and whose outputs are joined as channels."""

    branches: tuple[Branch, ...]

    @nn.compact
    def __call__(self, x: Image) -> Float[Array, "batch out_height out_width features"]:
        return jnp.concatenate([self._through(branch, x) for branch in self.branches], axis=-1)

    def _through(self, branch: Branch, x: Array) -> Array:
        for step in branch:
            if isinstance(step, Pool):
                x = _pooled(x, step)
            elif isinstance(step, Step):
                x = _convolved(x, step, "SAME" if step.stride == 1 else "VALID")
            else:
                x = jnp.concatenate([_convolved(x, each, "SAME") for each in step], axis=-1)
        return x


class Inception(nn.Module):
    """Pictures, float32 in [-1, 1], of 299 x 299 pixels; others of 75 or more are possible.

    Returns the features, averaged over the picture and 0 or more ("pool_3"), and the logits of the 1,008 classes,
    which cost nothing under jit where they are not used.
    """

    @nn.compact
    def __call__(self, pictures: Image) -> tuple[Float[Array, "batch 2048"], Float[Array, "batch 1008"]]:
        x = _convolved(pictures, Step("Conv2d_1a_3x3", 32, SQUARE, 2), "VALID")
        x = _convolved(x, Step("Conv2d_2a_3x3", 32, SQUARE), "VALID")
        x = _pooled(_convolved(x, Step("Conv2d_2b_3x3", 64, SQUARE), "SAME"), POOL_2[0])
        x = _convolved(x, Step("Conv2d_3b_1x1", 80), "VALID")
        x = _pooled(_convolved(x, Step("Conv2d_4a_3x3", 192, SQUARE), "VALID"), POOL_2[0])
        for name, branches in BLOCKS.items():
            x = Block(branches, name=name)(x)
        features = x.mean((1, 2))
        return features, nn.Dense(CLASSES, name="fc")(features)


def _convolved(x: Array, step: Step, padding: str) -> Array:
    return nn.relu(nn.Conv(step.features, step.window, step.stride, padding, name=step.name)(x))


def _pooled(x: Array, pool: Pool) -> Array:
    strides, padding = (pool.stride, pool.stride), "SAME" if pool.stride == 1 else "VALID"
    if pool.kind == "max":
        return nn.max_pool(x, SQUARE, strides, padding)
    return nn.avg_pool(x, SQUARE, strides, padding, count_include_pad=False)
