"""How gradients become updates: public functions here are what `config.optimizer` may name."""

import jax
import optax
from jax.typing import ArrayLike


def adamw(
    learning_rate: ArrayLike,
    warmup_steps: int = 0,
    decay_steps: int = 0,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.99,
    eps: ArrayLike = 1e-8,
    weight_decay: ArrayLike = 0.0,
    clip_norm: ArrayLike = 1.0,
) -> optax.GradientTransformation:
    """AdamW (Loshchilov & Hutter 2019) behind a clip of the global gradient norm.

    The rate rises linearly over warmup_steps, then follows a cosine to zero at decay_steps (counted from the first
    step; 0 keeps it constant). Weight decay acts on kernels and embeddings, never on biases and norms.
    All but the two numbers of steps may be traced, and are then not checked.
    Raises ValueError for a decay that ends before the warm-up does, or a clip that lets nothing through.
    """
    never_negative = filter(_known, (learning_rate, warmup_steps, decay_steps, weight_decay))
    if min(never_negative) < 0 or (_known(clip_norm) and clip_norm <= 0):
        raise ValueError(
            f"optimizer: {learning_rate=}, {warmup_steps=}, {decay_steps=} and {weight_decay=} cannot be negative, "
            f"and {clip_norm=} must be positive"
        )
    if 0 < decay_steps <= warmup_steps:
        raise ValueError(f"optimizer: decay_steps={decay_steps} must be 0 (none) or above {warmup_steps=}")
    if decay_steps:
        # optax.warmup_cosine_decay_schedule asks whether the rate is 0, which is not known of one that is traced
        falling = optax.cosine_decay_schedule(learning_rate, decay_steps - warmup_steps)
        rate = optax.join_schedules([optax.linear_schedule(0.0, learning_rate, warmup_steps), falling], [warmup_steps])
    else:
        rate = optax.linear_schedule(0.0 if warmup_steps else learning_rate, learning_rate, max(warmup_steps, 1))
    return optax.chain(
        optax.clip_by_global_norm(clip_norm),
        optax.adamw(rate, b1, b2, eps, weight_decay=weight_decay, mask=decayed),
    )


def _known(number: ArrayLike) -> bool:
    """Whether a number can be looked at: one that is traced has no value before the program runs."""
    return not isinstance(number, jax.core.Tracer)


def decayed(params):
    """Which leaves weight decay acts on: those with two axes or more."""
    return jax.tree.map(lambda p: p.ndim >= 2, params)
