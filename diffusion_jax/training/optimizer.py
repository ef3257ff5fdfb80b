"""How gradients become updates: public functions here are what `config.optimizer` may name."""

import jax
import optax


def adamw(
    learning_rate: float,
    warmup_steps: int = 0,
    decay_steps: int = 0,
    b1: float = 0.9,
    b2: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    clip_norm: float = 1.0,
) -> optax.GradientTransformation:
    """AdamW (Loshchilov & Hutter 2019) behind a clip of the global gradient norm.

    The rate rises linearly over warmup_steps, then follows a cosine to zero at decay_steps (counted from the first
    step; 0 keeps it constant). Weight decay acts on kernels and embeddings, never on biases and norms.
    Raises ValueError for a decay that ends before the warm-up does, or a clip that lets nothing through.
    """
    if min(learning_rate, warmup_steps, decay_steps, weight_decay) < 0 or clip_norm <= 0:
        raise ValueError(
            f"optimizer: {learning_rate=}, {warmup_steps=}, {decay_steps=} and {weight_decay=} cannot be negative, "
            f"and {clip_norm=} must be positive"
        )
    if 0 < decay_steps <= warmup_steps:
        raise ValueError(f"optimizer: decay_steps={decay_steps} must be 0 (none) or above {warmup_steps=}")
    if decay_steps:
        rate = optax.warmup_cosine_decay_schedule(0.0, learning_rate, warmup_steps, decay_steps)
    else:
        rate = optax.linear_schedule(0.0 if warmup_steps else learning_rate, learning_rate, max(warmup_steps, 1))
    return optax.chain(
        optax.clip_by_global_norm(clip_norm),
        optax.adamw(rate, b1, b2, eps, weight_decay=weight_decay, mask=decayed),
    )


def decayed(params):
    """Which leaves weight decay acts on: those with two axes or more."""
    return jax.tree.map(lambda p: p.ndim >= 2, params)
