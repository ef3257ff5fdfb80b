"""What past values count in the next step: the integrals of the polynomials through them.

A multistep method replaces a function of the noise level by the polynomial through its last values and integrates that
exactly. With Lagrange's polynomials the integral is a sum, weight times value; the weights depend on the levels alone,
so all are found before the first step. They are found by Gauss's quadrature: the formulas in closed form are
differences of nearly equal numbers where steps are small, and 16 points are exact to rounding where steps are not huge.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

ROOTS, SHARES = np.polynomial.legendre.leggauss(16)  # of [-1, 1]
Coordinates = Float[Array, " n"]


def table(levels: Coordinates, order: int, kernel: Callable, back: int = 0) -> Float[Array, "n order"]:
    """Entry [i, j]: by what the value at levels[i - j] counts in the integral from levels[i] to the next level.

    With back = 1 it is the integral from levels[i - 1] to levels[i]. kernel(u, end) multiplies the polynomial. The last
    step leads nowhere, and its weights are zero. Early rows have fewer values to look back on and are of lower order.
    """
    ends = jnp.concatenate([levels[1:], levels[-1:]])
    starts = levels
    if back:
        starts, ends = jnp.concatenate([levels[:1], levels[:-1]]), levels
    early = [
        jnp.pad(weights(levels[: i + 1][::-1], starts[i], ends[i], kernel), (0, order - 1 - i))
        for i in range(min(order - 1, levels.size))
    ]
    if levels.size < order:
        return jnp.stack(early)
    nodes = jnp.stack([levels[order - 1 - j : levels.size - j] for j in range(order)], axis=1)
    late = jax.vmap(weights, (0, 0, 0, None))(nodes, starts[order - 1 :], ends[order - 1 :], kernel)
    return jnp.concatenate([jnp.stack(early), late]) if early else late


def weights(
    nodes: Float[Array, " order"], start: Float[Array, ""], end: Float[Array, ""], kernel: Callable
) -> Float[Array, " order"]:
    """The integral of kernel(u, end) l_j(u) from start to end, for Lagrange's l_j that are 1 at nodes[j]."""
    half = (end - start) / 2
    u = start + half * (1 + jnp.asarray(ROOTS, nodes.dtype))
    shares = half * jnp.asarray(SHARES, nodes.dtype) * kernel(u, end)

    def share_of(j: int):
        factors = ((u - nodes[k]) / (nodes[j] - nodes[k]) for k in range(nodes.size) if k != j)
        return jnp.sum(math.prod(factors, start=shares))

    return jnp.stack([share_of(j) for j in range(nodes.size)])
