"""A linear map of the last axis, in the form that compiles well."""

import flax.linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float


def project(
    x: Float[Array, "*shape dim"], features: int, dtype: DTypeLike, name: str, **options
) -> Float[Array, "*shape {features}"]:
    """`nn.Dense` called `name`, over all positions as rows of one matrix; options are those of nn.Dense.

    Over two axes or more, Dense makes XLA copy the incoming gradient into another layout on CPU before the kernel's
    gradient; over rows it does not (a fifth of the time of a small T5's gradient).
    """
    rows = nn.Dense(features, dtype=dtype, name=name, **options)(x.reshape(-1, x.shape[-1]))
    return rows.reshape(*x.shape[:-1], features)
