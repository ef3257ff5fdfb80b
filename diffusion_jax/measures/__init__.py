"""What a trained model is measured by: config.figures names functions of this room, or anybody's.

    config.figures = (dict(name="held_out"), dict(name="alignment"))

A measure is a function (subject, **arguments) -> (params, seed, drawn) -> Found. The first figure of the first one
decides which arm of a sweep is better: what decides is so settled before anything is seen.
"""

from diffusion_jax.measures.losses import held_out
from diffusion_jax.measures.pictures import alignment, clip_score, features, pixels
from diffusion_jax.measures.solving import solved

__all__ = ["alignment", "clip_score", "features", "held_out", "pixels", "solved"]
