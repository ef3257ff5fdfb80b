"""The networks in whose features pictures may be compared: what a `features` measure names."""

from diffusion_jax.evaluation.features import efficientnet_lite0
from diffusion_jax.evaluation.inception_features import inception
from diffusion_jax.evaluation.vit_features import clip, dinov2

__all__ = ["clip", "dinov2", "efficientnet_lite0", "inception"]
