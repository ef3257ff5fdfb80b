"""What do configs train their networks to do? Drawn side by side, and checked for what papers have warned of."""

from diffusion_jax.objectives.show import show as show
