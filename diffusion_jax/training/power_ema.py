"""Averages of the parameters whose length is a share of the training so far; any other length is fitted from them.

Karras et al., "Analyzing and Improving the Training Dynamics of Diffusion Models" (2024, EDM2), section 3.1 and
appendix C.4. After update t the average weighs the parameters of time tau by tau^gamma, so it forgets the first ones
and stretches with the training. Its length is told as sigma_rel, the standard deviation of those times over t:

    sigma_rel   0.05    0.10   0.15   0.20   0.25   below 12^-0.5 = 0.2887,
    gamma      16.97    6.94   3.56   1.83   0.72   above 0, where all times weigh the same

Two such averages, kept now and then by `ema_snapshots`, are enough for `post_hoc_ema`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Float64, Int

from diffusion_jax.types import Params

LENGTHS = (0.05, 0.10)  # the paper's two, appendix C.5
LONGEST = 12**-0.5


class Followed(NamedTuple):
    """The state of an optimizer that is followed. count: updates that the averages have seen. averages: in float32."""

    inner: optax.OptState
    count: Int[Array, ""]
    averages: tuple[Params, ...]


def gamma_of(sigma_rel: float) -> float:
    """The exponent of the average of a relative length (Equation 126, solved for gamma + 2).

    Raises ValueError unless 0 < sigma_rel < 12^-0.5.
    """
    if not 0 < sigma_rel < LONGEST:
        raise ValueError(
            f"an average's length sigma_rel is {sigma_rel}: it lies above 0 and below {LONGEST:.4f}, as 0.05 or 0.1"
        )
    variance = float(sigma_rel) ** 2
    return float(np.roots([variance, variance, -1, 1]).real.max()) - 2


def sigma_rel_of(gamma: float) -> float:
    """The relative length of the average with an exponent (Equation 123)."""
    return float(np.sqrt((gamma + 1) / (gamma + 3)) / (gamma + 2))


def share_at(step: Int[Array, ""], gamma: float) -> Float[Array, ""]:
    """What the new parameters weigh after `step` updates before: 1 - beta, with beta = (1 - 1 / t)^(gamma + 1).

    t is step + 1 (Equation 2), so the first share is 1 and the initial parameters are not in the average. It is not
    beta that is computed: in float32, one minus that is wrong by 1% after a million updates.
    """
    return -jnp.expm1((gamma + 1) * jnp.log1p(-1 / (step.astype(jnp.float32) + 1)))


def begin(params: Params, count: int) -> tuple[Params, ...]:
    """So many averages before the first update: copies of the parameters in float32."""
    return tuple(jax.tree.map(lambda p: jnp.array(p, jnp.float32, copy=True), params) for _ in range(count))


def update(
    averages: Sequence[Params], params: Params, step: Int[Array, ""], gammas: Sequence[float]
) -> tuple[Params, ...]:
    """average + share * (parameters - average), for each average; `step` counts the updates before this one.

    Float32 rounds each by up to 2^-24 of the average; over t updates that adds up to t / (gamma + 2) times as much at
    most, which for sigma_rel 0.1 and t = 100,000 is 0.07%. Where parameters have settled it comes near that, and stays
    far below where they still move.
    """

    def toward(average: Params, share: Float[Array, ""]) -> Params:
        return jax.tree.map(lambda a, p: a + share * (p.astype(a.dtype) - a), average, params)

    return tuple(toward(average, share_at(step, gamma)) for average, gamma in zip(averages, gammas, strict=True))


def following(optimizer: optax.GradientTransformation, sigma_rels: Sequence[float]) -> optax.GradientTransformation:
    """The same optimizer, whose state holds averages of these lengths as well, see `Followed`; without any, itself.

    So they are laid out, saved and restored as moments are, and no step or state need know of them.
    Raises ValueError as `check_lengths` does.
    """
    if not sigma_rels:
        return optimizer
    gammas = check_lengths(sigma_rels)

    def init(params: Params) -> Followed:
        return Followed(optimizer.init(params), jnp.zeros((), jnp.int32), begin(params, len(gammas)))

    def follow(gradients, state: Followed, params: Params):
        updates, inner = optimizer.update(gradients, state.inner, params)
        new = optax.apply_updates(params, updates)
        return updates, Followed(inner, state.count + 1, update(state.averages, new, state.count, gammas))

    return optax.GradientTransformation(init, follow)


def check_lengths(sigma_rels: Sequence[float]) -> list[float]:
    """The exponents of averages. Raises ValueError for a length out of range, and for one that is there twice."""
    gammas = [gamma_of(sigma_rel) for sigma_rel in sigma_rels]
    if len(set(gammas)) < len(gammas):
        raise ValueError(f"of averages' lengths {list(sigma_rels)}, one is there twice: each has to differ")
    return gammas


def profile(step: int, gamma: float) -> Float64[np.ndarray, " step"]:
    """What the parameters after updates 1 to `step` weigh in the average after `step`; the sum is 1.

    (i / step)^(gamma + 1) - ((i - 1) / step)^(gamma + 1), the power function over the time that update i stands for.
    """
    times = np.arange(1, step + 1, dtype=np.float64)
    shares = np.ones(step)
    shares[1:] = -np.expm1((gamma + 1) * np.log1p(-1 / times[1:]))
    return shares * (times / step) ** (gamma + 1)
