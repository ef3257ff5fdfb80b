"""What a batch does that makes the loss no number: nothing, if so wished, but that it is counted."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.training.state import TrainState

SKIPPED = "skipped"


def skipping(train_step: Callable) -> Callable:
    """The step (state, batch, key) -> (state, metrics), which changes nothing where its loss or gradient is not finite.

    Parameters, their average and the optimizer's state are then those of before; the step is counted, so that what
    comes after draws other noise of other pictures. Its metrics are 0, but for "skipped", which is 1, and else 0.

    Only "loss" and "gradient_norm" are asked; parameters that overflow under a finite gradient show in
    "parameter_norm" as ever. While the step runs, this takes the memory of one more copy of the parameters.
    """

    def step(state: TrainState, batch: dict, key: jax.Array) -> tuple[TrainState, dict]:
        new, metrics = train_step(state, batch, key)
        good = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["gradient_norm"])
        chosen = jax.tree.map(lambda now, before: jnp.where(good, now, before), new, state)
        counted = {name: jnp.where(good, value, jnp.zeros_like(value)) for name, value in metrics.items()}
        return chosen._replace(step=new.step), counted | {SKIPPED: 1 - good.astype(jnp.float32)}

    return step


def means(window: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of each metric over the steps that were not skipped; "skipped" is how many were, where steps say so.

    Where all were, there is nothing else.
    """
    counts = [metrics[SKIPPED] for metrics in window if SKIPPED in metrics]
    taken = [metrics for metrics in window if not metrics.get(SKIPPED)]
    names = [name for name in taken[0] if name != SKIPPED] if taken else []
    told = {name: float(np.mean([metrics[name] for metrics in taken])) for name in names}
    return told | ({SKIPPED: float(sum(counts))} if counts else {})


def in_a_row(before: int, metrics: dict[str, float]) -> int:
    """How many steps in a row are skipped by now, of which there were `before` until this one."""
    return before + 1 if metrics.get(SKIPPED) else 0
