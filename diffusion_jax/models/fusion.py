"""Where XLA's fusion on CPU goes too far."""

from jax import lax

from diffusion_jax.models.backend import backend


def computed_once(x):
    """x, and its gradient, as arrays in memory, on CPU; elsewhere x as it is.

    XLA on CPU puts a cheap chain of operations into each of its uses. In the gradient of a residual network every block
    would repeat the chains of all blocks after it, and a sum over a small picture would be taken again for each pixel.
    """
    return lax.optimization_barrier(x) if backend() == "cpu" else x
