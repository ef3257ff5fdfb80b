"""Data that are a formula, so that every question about them has an exact answer: an `Oracle` holds the answers.

What theory says of a sampler, of guidance or of a loss can be tested against it, and whatever differs is an error of
the thing tested. x = x_0 + sigma eps throughout. A picture has the shape (height, width, channel), without a batch
axis. Settings may be traced arrays.
"""

from diffusion_jax.diffusion.oracle.changes import network, perturbed
from diffusion_jax.diffusion.oracle.gaussians import gaussian, gaussian_flow
from diffusion_jax.diffusion.oracle.law import Oracle as Oracle
from diffusion_jax.diffusion.oracle.mixtures import (
    dataset,
    label,
    labeled_dataset,
    labeled_mixture,
    mixture,
    unlabeled,
)

__all__ = [
    "dataset",
    "gaussian",
    "gaussian_flow",
    "label",
    "labeled_dataset",
    "labeled_mixture",
    "mixture",
    "network",
    "perturbed",
    "unlabeled",
]
