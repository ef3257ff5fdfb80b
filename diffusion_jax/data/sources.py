"""The data sets a config can name: each function gives a source, a random-access sequence of captioned pictures."""

from diffusion_jax.data.emoji import emoji
from diffusion_jax.data.shapes import shapes

__all__ = ["emoji", "shapes"]
