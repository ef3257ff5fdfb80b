"""One update of everything, written for one global batch; parallel.py says where it runs."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from diffusion_jax.diffusion import keys as random_keys
from diffusion_jax.training import ema
from diffusion_jax.training.state import TrainState, apart


def make_train_step(
    loss: Callable,
    optimizer: optax.GradientTransformation,
    ema_decay: ArrayLike,
    fixed: Sequence[str] = (),
    microbatch: int = 0,
    axis: str | None = None,
) -> Callable:
    """A pure function (state, batch, key) -> (state, metrics).

    loss: (params, batch, keys, rows) -> (scalar, metrics), means over examples. keys holds one for each example of the
    global batch, made from the run's key, the step and the example's place; rows says which of them `batch` holds, or
    is None for all. metrics: float32 scalars, among them "loss", "gradient_norm" and "parameter_norm", which is that
    after the update: parameters that are no longer numbers show at once.
    fixed: names of parameters that stay as they are, for which no gradient is computed and no moment kept.
    microbatch: examples of the global batch whose gradients are computed at once, one such part after the other; it
    divides the batch. 0: all at once. Parts are every n-th row, so that each device has its share of every part.
    axis: of pmap, where `batch` is one device's part of the rows; their order is that of the devices.
    """

    def train_step(state: TrainState, batch: dict, key: jax.Array) -> tuple[TrainState, dict]:
        count = len(batch["image"])
        devices, here = (jax.lax.axis_size(axis), jax.lax.axis_index(axis)) if axis else (1, 0)
        keys = random_keys.for_example(key, state.step, devices * count)
        (params, still), (ema_params, ema_still) = apart(state.params, fixed), apart(state.ema_params, fixed)

        def gradients_on(part: dict, rows):
            def loss_of(params):
                return loss(params | still if still else params, part, keys, rows)

            (value, metrics), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
            return gradients, metrics | {"loss": value}

        parts = devices * count // microbatch if microbatch else 1
        own_rows = here * count + jnp.arange(count)
        if parts > 1:
            gradients, metrics = mean_over_parts(gradients_on, batch, own_rows, parts)
        else:
            gradients, metrics = gradients_on(batch, own_rows if axis else None)
        if axis:
            gradients, metrics = jax.lax.pmean((gradients, metrics), axis)
        updates, opt_state = optimizer.update(gradients, state.opt_state, params)
        params = optax.apply_updates(params, updates)
        ema_params = ema.update(ema_params, params, ema.decay_at(state.step, ema_decay))
        norms = {"gradient_norm": optax.tree.norm(gradients), "parameter_norm": optax.tree.norm(params)}
        if still:
            params, ema_params = params | still, ema_params | ema_still
        return TrainState(state.step + 1, params, ema_params, opt_state), metrics | norms

    return train_step


def mean_over_parts(function: Callable, batch: dict, rows: jax.Array, parts: int):
    """The float32 mean of function(part of the batch, its rows) over so many parts, one computed after the other."""

    def cut(column):  # row p of part 0, of part 1, ...: cut like this, no row leaves its device
        return jnp.swapaxes(column.reshape(-1, parts, *column.shape[1:]), 0, 1)

    def add(total, part):
        found = function(*part)
        return jax.tree.map(lambda a, b: a + b.astype(a.dtype), total, found), None

    cut_up = jax.tree.map(cut, (batch, rows))
    first = jax.tree.map(lambda column: column[0], cut_up)
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), jax.eval_shape(function, *first))
    total, _ = jax.lax.scan(add, zero, cut_up)
    return jax.tree.map(lambda leaf: leaf / parts, total)
