"""Everything that training changes, as arrays: nothing else needs saving."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from diffusion_jax.types import Params


class TrainState(NamedTuple):
    """step: updates done so far, int32 scalar. ema_params: an average of params over time, which draws the pictures."""

    step: Int[Array, ""]
    params: Params
    ema_params: Params
    opt_state: optax.OptState


def init_state(params: Params, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step. The average is a copy: one donated buffer cannot be two leaves."""
    return TrainState(jnp.zeros((), jnp.int32), params, jax.tree.map(jnp.copy, params), optimizer.init(params))
