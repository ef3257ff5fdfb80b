"""The data sets that a config can name: each function takes a split and gives captioned pictures, a `Source`."""

from diffusion_jax.data.emoji import emoji
from diffusion_jax.data.folder import folder
from diffusion_jax.data.shapes import shapes
from diffusion_jax.data.tfds import tfds
from diffusion_jax.data.webdataset import array_record

__all__ = ["array_record", "emoji", "folder", "shapes", "tfds"]
