"""From captions to what the denoiser is conditioned on."""

from diffusion_jax.text.embedded import identity
from diffusion_jax.text.encoders import jointly_trained, pretrained
from diffusion_jax.text.record import Text, agree
from diffusion_jax.text.several import joined

__all__ = ["Text", "agree", "identity", "joined", "jointly_trained", "pretrained"]
