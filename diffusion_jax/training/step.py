"""One update of everything, written for one global batch; parallel.py says where it runs."""

from collections.abc import Callable, Sequence

import jax
import optax

from diffusion_jax.diffusion import keys as random_keys
from diffusion_jax.training import ema
from diffusion_jax.training.state import TrainState, apart


def make_train_step(
    loss: Callable, optimizer: optax.GradientTransformation, ema_decay: float, fixed: Sequence[str] = ()
) -> Callable:
    """A pure function (state, batch, key) -> (state, metrics).

    loss: (params, batch, keys) -> (scalar, metrics), where keys holds one key for each example, made from the run's
    key, the step and the example's place in the batch. metrics: float32 scalars, among them "loss", "gradient_norm" and
    "parameter_norm", which is that after the update: parameters that are no longer numbers show at once.
    fixed: names of parameters that stay as they are, for which no gradient is computed and no moment kept.
    """

    def train_step(state: TrainState, batch: dict, key: jax.Array) -> tuple[TrainState, dict]:
        keys = random_keys.for_example(key, state.step, batch["image"].shape[0])
        (params, still), (ema_params, ema_still) = apart(state.params, fixed), apart(state.ema_params, fixed)

        def loss_of(params):
            return loss(params | still if still else params, batch, keys)

        (value, metrics), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, opt_state = optimizer.update(gradients, state.opt_state, params)
        params = optax.apply_updates(params, updates)
        ema_params = ema.update(ema_params, params, ema.decay_at(state.step, ema_decay))
        norms = {"gradient_norm": optax.tree.norm(gradients), "parameter_norm": optax.tree.norm(params)}
        metrics = metrics | {"loss": value} | norms
        if still:
            params, ema_params = params | still, ema_params | ema_still
        return TrainState(state.step + 1, params, ema_params, opt_state), metrics

    return train_step
