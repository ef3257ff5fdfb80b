"""The running average of the parameters that draws better pictures than the parameters themselves."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from diffusion_jax.types import Params


def decay_at(step: Int[Array, ""], decay: ArrayLike) -> Float[Array, ""]:
    """The decay after `step` updates: it rises from 0.1 to `decay`, so that the initial weights are soon forgotten.

    min(decay, (1 + step) / (10 + step)), the schedule of TensorFlow's ExponentialMovingAverage with num_updates.
    """
    step = step.astype(jnp.float32)
    return jnp.minimum(decay, (1 + step) / (10 + step))


def update(ema_params: Params, params: Params, decay: Float[Array, ""]) -> Params:
    """decay * average + (1 - decay) * parameters, leaf by leaf, in the average's dtype."""
    return jax.tree.map(lambda a, p: a + ((1 - decay) * (p - a)).astype(a.dtype), ema_params, params)
