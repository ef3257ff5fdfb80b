"""How is the picture made to follow its text? Denoiser in, Denoiser out: to combine two, nest them.

A denoiser tells D = E[x_0 | x] = x + sigma^2 grad log p(x) for x = x_0 + sigma eps (Karras et al. 2022, equation 3).
At a given x, eps, v and the score are linear in D, so a rule that is a weighted mean guides them all alike; the rules
that are not say of what they are. A `scale` of 1 is no guidance. It is a number, or a function of sigma such as those
of `scales`. A negative prompt is another null_cond: the picture is pushed away from whatever stands there. null_cond
has a batch of one, or that of cond, and texts of the same length. Settings may be traced arrays; no example depends on
the others of its batch.
"""

from diffusion_jax.diffusion.guidance.classifier import classifier
from diffusion_jax.diffusion.guidance.combine import autoguidance, cfg, composed, weakened, without_text
from diffusion_jax.diffusion.guidance.corrections import apg, cfg_zero_star, rescaled
from diffusion_jax.diffusion.guidance.limits import dynamic_threshold, static_threshold, within
from diffusion_jax.diffusion.guidance.scales import cfg_plus_plus, cosine_ramp, linear_ramp
from diffusion_jax.diffusion.guidance.training import drop

__all__ = [
    "apg",
    "autoguidance",
    "cfg",
    "cfg_plus_plus",
    "cfg_zero_star",
    "classifier",
    "composed",
    "cosine_ramp",
    "drop",
    "dynamic_threshold",
    "linear_ramp",
    "rescaled",
    "static_threshold",
    "weakened",
    "within",
    "without_text",
]
