"""Everything that training changes, as arrays: nothing else needs saving."""

from collections.abc import Sequence
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


def init_state(params: Params, optimizer: optax.GradientTransformation, fixed: Sequence[str] = ()) -> TrainState:
    """The state before the first step; the parameters named in `fixed` are none of the optimizer's.

    The average is a copy: one donated buffer cannot be two leaves.
    """
    opt_state = optimizer.init(apart(params, fixed)[0])
    return TrainState(jnp.zeros((), jnp.int32), params, jax.tree.map(jnp.copy, params), opt_state)


def apart(params: Params, fixed: Sequence[str]) -> tuple[Params, Params]:
    """Parameters by name in two: those that are trained, and those named in `fixed`."""
    if not fixed:
        return params, {}
    return (
        {name: value for name, value in params.items() if name not in fixed},
        {name: value for name, value in params.items() if name in fixed},
    )
