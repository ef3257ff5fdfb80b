"""Samplers that call the network once a level and remember what it said at the levels before.

All but `dpmpp_2m_sde` are a table of weights for the last values, of the estimate D or of the slope (x - D) / sigma,
which is also the estimate of eps. Their first steps, with less to look back on, are of lower order. `order` is static.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from diffusion_jax.diffusion.samplers.quadrature import table, weights
from diffusion_jax.diffusion.samplers.walk import Result, following, noise, nothing_yet, remember, root, walk, weighted
from diffusion_jax.types import Cond, Denoiser, Image, Keys, Sigmas

Weights = Float[Array, "n order"]


def dpmpp_2m(denoise: Denoiser, x: Image, sigmas: Sigmas, cond: Cond, keys: Keys, trace: bool = False) -> Result:
    """DPM-Solver++(2M) of Lu et al. (2022, Algorithm 2): second order.

    D is extrapolated in log(sigma) from this level and the one before, half a step ahead: with r = sigma_next / sigma
    and h = -log(r), x_next = r x + (1 - r) (D + h / (2 h_before) (D - D_before)).
    """
    return _from_estimates(denoise, x, sigmas, cond, _line(sigmas, 1 - _ratio(sigmas), 1 - _ratio(sigmas)), trace)


def dpmpp_3m(
    denoise: Denoiser,
    x: Image,
    sigmas: Sigmas,
    cond: Cond,
    keys: Keys,
    curvature: ArrayLike = 1.0,
    trace: bool = False,
) -> Result:
    """DPM-Solver++(3M): third order, by the parabola through the last three D in log(sigma).

    The authors' code, k-diffusion and diffusers count the parabola's curvature half: `curvature` = 0.5 is theirs, and
    of second order.
    """
    exact = _of_polynomials(sigmas, 3)
    return _from_estimates(
        denoise, x, sigmas, cond, exact + (jnp.asarray(curvature, sigmas.dtype) - 1) * _curvature(sigmas), trace
    )


def dpmpp_2m_sde(
    denoise: Denoiser,
    x: Image,
    sigmas: Sigmas,
    cond: Cond,
    keys: Keys,
    eta: ArrayLike = 1.0,
    s_noise: ArrayLike = 1.0,
    trace: bool = False,
) -> Result:
    """SDE-DPM-Solver++(2M) of Lu et al. (2022), in the midpoint form: `dpmpp_2m` that forgets and draws fresh noise.

    eta = 0 is `dpmpp_2m`. s_noise is the deviation of the fresh noise; above 1 it makes up for a blurring network.
    """
    kept = _ratio(sigmas) ** (1 + eta)
    weights = _line(sigmas, 1 - kept, 1 - kept)
    fresh = following(sigmas) * root(-jnp.expm1(2 * eta * jnp.log(_ratio(sigmas)))) * s_noise

    def move(x, memory, sigma, sigma_next, index):
        x_0 = denoise(x, sigma, cond)
        memory = remember(x_0, memory)
        return kept[index] * x + weighted(weights[index], memory) + fresh[index] * noise(keys, index, x), x_0, memory

    return walk(move, x, sigmas, trace, nothing_yet(2))


def unipc(
    denoise: Denoiser,
    x: Image,
    sigmas: Sigmas,
    cond: Cond,
    keys: Keys,
    order: int = 3,
    variant: str = "bh2",
    trace: bool = False,
) -> Result:
    """UniPC of Zhao et al. (2023), predicting D: each step is made again, one order higher, when its end is known.

    That costs no call: D at the predicted x corrects the step that led there and begins the next one. `variant` is
    their B(h), "bh1" = h or "bh2" = exp(h) - 1 up to sign; it matters only to the steps of two values, which stop at
    the first term of their expansion.
    """
    if variant not in ("bh1", "bh2"):
        raise ValueError(f"unipc has the variants bh1 and bh2, not {variant!r}")
    ratio = _ratio(sigmas)
    size = -jnp.log(ratio) if variant == "bh1" else 1 - ratio
    before, size_before = (jnp.roll(each, 1) for each in (ratio, size))
    line_ahead = _line(sigmas, 1 - ratio, size)
    line_back = jnp.stack([0.5 * size_before, 1 - before - 0.5 * size_before], axis=1)
    predict = _with_line(_of_polynomials(sigmas, order), line_ahead, last=order == 2)
    correct = _with_line(_of_polynomials(sigmas, order + 1, back=1), line_back, last=order == 1)

    def move(x, memory, sigma, sigma_next, index):
        start, estimates = memory
        x_0 = denoise(x, sigma, cond)
        estimates = remember(x_0, estimates)
        corrected = before[index] * start + weighted(correct[index], estimates)
        start = jnp.where(index == 0, x, corrected)
        return ratio[index] * start + weighted(predict[index], estimates[:order]), x_0, (start, estimates)

    return walk(move, x, sigmas, trace, lambda x, sigma: (x, nothing_yet(order + 1)(x, sigma)))


def deis(
    denoise: Denoiser, x: Image, sigmas: Sigmas, cond: Cond, keys: Keys, order: int = 3, trace: bool = False
) -> Result:
    """DEIS of Zhang and Chen (2023): the slope as a polynomial of log(sigma), as diffusers has it ("logrho")."""
    weights = table(jnp.log(sigmas), order, lambda u, end: jnp.exp(u))
    return _from_slopes(denoise, x, sigmas, cond, weights, trace)


def lms(
    denoise: Denoiser, x: Image, sigmas: Sigmas, cond: Cond, keys: Keys, order: int = 4, trace: bool = False
) -> Result:
    """The linear multistep method of Adams and Bashforth for uneven steps: the slope as a polynomial of sigma."""
    return _from_slopes(denoise, x, sigmas, cond, table(sigmas, order, lambda u, end: jnp.ones_like(u)), trace)


def ipndm(
    denoise: Denoiser, x: Image, sigmas: Sigmas, cond: Cond, keys: Keys, order: int = 4, trace: bool = False
) -> Result:
    """PNDM's multistep method (Liu et al. 2022, equation 12), not begun by Runge-Kutta, as of Zhang and Chen (2023).

    The weights are those of even steps whatever the grid, so it is of first order where the steps are uneven; at very
    few levels that costs less than it seems. Raises ValueError for an order over 4.
    """
    if not 1 <= order <= 4:
        raise ValueError(f"ipndm has orders 1 to 4, not {order}")
    even = [
        [1.0, 0, 0, 0],
        [3 / 2, -1 / 2, 0, 0],
        [23 / 12, -16 / 12, 5 / 12, 0],
        [55 / 24, -59 / 24, 37 / 24, -9 / 24],
    ]
    rows = jnp.asarray(even, sigmas.dtype)[jnp.minimum(jnp.arange(sigmas.size), order - 1), :order]
    return _from_slopes(denoise, x, sigmas, cond, (following(sigmas) - sigmas)[:, None] * rows, trace)


def _from_estimates(denoise: Denoiser, x: Image, sigmas: Sigmas, cond: Cond, weights: Weights, trace: bool) -> Result:
    """x_next = (sigma_next / sigma) x + the weighted sum of the last D."""

    def move(x, memory, sigma, sigma_next, index):
        x_0 = denoise(x, sigma, cond)
        memory = remember(x_0, memory)
        return sigma_next / sigma * x + weighted(weights[index], memory), x_0, memory

    return walk(move, x, sigmas, trace, nothing_yet(weights.shape[1]))


def _from_slopes(denoise: Denoiser, x: Image, sigmas: Sigmas, cond: Cond, weights: Weights, trace: bool) -> Result:
    """x_next = x + the weighted sum of the last slopes."""

    def move(x, memory, sigma, sigma_next, index):
        x_0 = denoise(x, sigma, cond)
        memory = remember((x - x_0) / sigma, memory)
        return x + weighted(weights[index], memory), x_0, memory

    return walk(move, x, sigmas, trace, nothing_yet(weights.shape[1]))


def _of_polynomials(sigmas: Sigmas, order: int, back: int = 0) -> Weights:
    """For the estimates: D as a polynomial of log(sigma)."""
    return table(jnp.log(sigmas), order, _kernel, back)


def _kernel(u: Float[Array, " points"], end: Float[Array, ""]) -> Float[Array, " points"]:
    """What D at log(sigma) = u adds to x at the end of a step, while log(sigma) falls."""
    return -jnp.exp(end - u)


def _line(sigmas: Sigmas, share: Float[Array, " n"], size: Float[Array, " n"]) -> Weights:
    """For the estimates: D counts `share`, and half of `size` times what it would change by in a step like the last."""
    step = -jnp.log(_ratio(sigmas))
    change = 0.5 * size * step / jnp.concatenate([jnp.full_like(step[:1], jnp.inf), step[:-1]])
    return jnp.stack([share + change, -change], axis=1)


def _with_line(table: Weights, line: Float[Array, "n 2"], last: bool) -> Weights:
    """The table with the line's weights in the row of two values to look back on, and if `last` in all after it."""
    if table.shape[1] < 2:
        return table
    rows = slice(1, None if last else 2)
    return table.at[rows, :2].set(line[rows])


def _curvature(sigmas: Sigmas) -> Weights:
    """What of `_of_polynomials(sigmas, 3)` is the square term of the parabola around the start of the step."""
    levels = jnp.log(sigmas)
    nodes = [levels[2 - j : levels.size - j] for j in range(3)]
    square = jax.vmap(
        lambda start, end: weights(start[None], start, end, lambda u, end: _kernel(u, end) * (u - start) ** 2)
    )(nodes[0], following(levels)[2:])[:, 0]
    one, two, three = nodes
    divided = [(one - two) * (one - three), (two - one) * (two - three), (three - one) * (three - two)]
    return jnp.pad(jnp.stack([square / each for each in divided], axis=1), ((2, 0), (0, 0)))[: levels.size]


def _ratio(sigmas: Sigmas) -> Float[Array, " n"]:
    return following(sigmas) / sigmas
