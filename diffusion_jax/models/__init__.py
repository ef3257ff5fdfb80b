"""Networks as flax.linen modules; those in __all__ are what a config may name."""

from diffusion_jax.models.t5 import T5Encoder
from diffusion_jax.models.uncertainty import Uncertainty as Uncertainty
from diffusion_jax.models.unet import UNet

__all__ = ["T5Encoder", "UNet"]
