"""The vision transformer of DINOv2 and of CLIP's image encoder: pictures to one vector each, that of the class token.

Dosovitskiy et al., "An Image is Worth 16x16 Words" (2021), figure 1: patches as tokens with learned positions, and one
token more, in a pre-norm transformer. CLIP normalizes the tokens before the first block and projects the result; DINOv2
scales what each block adds. Computed in float32.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from diffusion_jax.models.clip_text import ACTIVATIONS
from diffusion_jax.models.projection import project
from diffusion_jax.types import Image

Tokens = Float[Array, "batch length dim"]


class Block(nn.Module):
    """Attention, then feed-forward: each normalizes its input and adds to it."""

    d_ff: int
    heads: int
    activation: str
    epsilon: float
    scaled: bool

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        dim = x.shape[-1]
        y = _norm(self.epsilon, "attention_norm")(x)
        q, k, v = (
            project(y, dim, jnp.float32, name).reshape(*x.shape[:-1], self.heads, dim // self.heads) for name in "qkv"
        )
        y = jax.nn.dot_product_attention(q, k, v).reshape(x.shape)
        x = x + self._scaled(project(y, dim, jnp.float32, "out"), "attention_scale")
        y = _norm(self.epsilon, "feed_forward_norm")(x)
        y = ACTIVATIONS[self.activation](project(y, self.d_ff, jnp.float32, "fc1"))
        return x + self._scaled(project(y, dim, jnp.float32, "fc2"), "feed_forward_scale")

    def _scaled(self, y: Tokens, name: str) -> Tokens:
        return y * self.param(name, nn.initializers.ones, (y.shape[-1],))[None, None] if self.scaled else y


class VisionTransformer(nn.Module):
    """patch: pixels of a side; grid: patches of a side that have positions, from which others' are interpolated.

    offset: by how much the grid of a picture then counts as larger than it is: DINOv2's own code takes 0.1
    (dinov2/models/vision_transformer.py), transformers 0. projection: width of the result; 0: it is the class token.

    Raises ValueError for heads that do not divide dim, and an unknown activation.
    """

    dim: int
    d_ff: int
    heads: int
    layers: int
    patch: int
    grid: int
    activation: str = "gelu"
    epsilon: float = 1e-6
    scaled: bool = True
    patch_bias: bool = True
    norm_first: bool = False
    projection: int = 0
    offset: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        if self.dim % self.heads:
            raise ValueError(f"{self.heads} heads do not divide a dim of {self.dim}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"the activation is {self.activation!r}; a ViT here has {' or '.join(ACTIVATIONS)}")

    @nn.compact
    def __call__(self, pictures: Image) -> Float[Array, "batch features"]:
        """Pictures, float32, as the weights want them; what is left of a side over its patches is left out."""
        patches = nn.Conv(
            self.dim, 2 * (self.patch,), 2 * (self.patch,), "VALID", use_bias=self.patch_bias, name="patches"
        )(pictures)
        batch, height, width, dim = patches.shape
        first = self.param("class_token", nn.initializers.normal(0.02), (dim,))
        places = self.param("positions", nn.initializers.normal(0.02), (self.grid**2 + 1, dim))
        x = jnp.concatenate(
            [jnp.broadcast_to(first[None, None], (batch, 1, dim)), patches.reshape(batch, height * width, dim)], axis=1
        )
        x = x + self._places(places, height, width)[None]
        if self.norm_first:
            x = _norm(self.epsilon, "first_norm")(x)
        for i in range(self.layers):
            block = Block(self.d_ff, self.heads, self.activation, self.epsilon, self.scaled, name=f"block_{i}")
            x = block(x)
        found = _norm(self.epsilon, "final_norm")(x[:, 0])
        return project(found, self.projection, jnp.float32, "projection", use_bias=False) if self.projection else found

    def _places(self, places: Array, height: int, width: int) -> Array:
        if (height, width) == (self.grid, self.grid):
            return places
        rows, columns = (jnp.asarray(between(self.grid, size, self.offset)) for size in (height, width))
        grid = places[1:].reshape(self.grid, self.grid, -1)
        grid = jnp.einsum("ri,ijc,sj->rsc", rows, grid, columns).reshape(height * width, -1)
        return jnp.concatenate([places[:1], grid])


def between(grid: int, size: int, offset: float = 0.0) -> np.ndarray:
    """The matrix (size, grid) that interpolates a line of values as PyTorch's "bicubic" does, without antialiasing.

    It weighs the nearest four by Keys' kernel with a = -3/4 (1981); beyond the ends are the last values.
    """
    matrix = np.zeros((size, grid), np.float32)
    for row in range(size):
        place = (row + 0.5) * grid / (size + offset) - 0.5
        for index in range(math.floor(place) - 1, math.floor(place) + 3):
            matrix[row, min(max(index, 0), grid - 1)] += _kernel(abs(place - index))
    return matrix


def _kernel(x: float, a: float = -0.75) -> float:
    if x <= 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    return a * (((x - 5) * x + 8) * x - 4) if x < 2 else 0.0


def _norm(epsilon: float, name: str) -> nn.LayerNorm:
    # The fast variance, E[x^2] - E[x]^2, cancels where the mean is large.
    return nn.LayerNorm(epsilon=epsilon, use_fast_variance=False, name=name)
