"""diffusion_jax: text-to-image diffusion models in JAX, and the means to find out what makes them work."""

__version__ = "0.1.0"
