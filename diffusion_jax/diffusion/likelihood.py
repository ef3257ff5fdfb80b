"""How likely is a picture? Its density under the model, by the ODE of the samplers run from the picture to noise."""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, UInt8

from diffusion_jax.diffusion.keys import for_purpose
from diffusion_jax.types import Cond, Denoiser, Image, Keys, Sigmas

Each = Float[Array, " batch"]
Bytes = UInt8[Array, "batch height width channel"]

# Runge-Kutta rules in which a stage looks at the slope of the stage before it alone:
# (how far along the step a stage lies, by what its slope counts)
RULES = {
    1: ((0.0,), (1.0,)),
    2: ((0.0, 1.0), (1 / 2, 1 / 2)),
    4: ((0.0, 1 / 2, 1 / 2, 1.0), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
}


def hutchinson(
    function: Callable, x: Image, keys: Keys, probes: int = 1, draw: Callable = jax.random.rademacher
) -> tuple[Image, Each]:
    """function(x) and an unbiased estimate of its divergence, the mean of v (J v) over random v.

    `function` must treat the examples of a batch apart. `probes` (static) is how many v each example draws from its
    key, `draw` their distribution: jax.random.rademacher, which is exact where J is diagonal, or jax.random.normal.
    One pass forward and one derivative for each probe (Hutchinson 1990; Grathwohl et al. 2019, equation 7).
    """
    shape = (probes, *x.shape[1:])
    v = jax.vmap(lambda key: draw(key, shape, x.dtype), out_axes=1)(for_purpose(keys, "probe"))
    value, push = jax.linearize(function, x)
    return value, jnp.mean(jnp.sum(v * jax.vmap(push)(v), axis=(2, 3, 4)), axis=0)


def exact(function: Callable, x: Image, keys: Keys) -> tuple[Image, Each]:
    """function(x) and its divergence, by one derivative for each pixel and channel: for small pictures.

    `function` must treat the examples of a batch apart; the keys are ignored.
    """
    value, push = jax.linearize(function, x)
    size = x[0].size

    def entry(index):
        along = jax.nn.one_hot(index, size, dtype=x.dtype).reshape(x.shape[1:])
        return jnp.sum(along[None] * push(jnp.broadcast_to(along[None], x.shape)), axis=(1, 2, 3))

    return value, jnp.sum(jax.lax.map(entry, jnp.arange(size)), axis=0)


def log_likelihood(
    denoise: Denoiser,
    x_0: Image,
    sigmas: Sigmas,
    cond: Cond,
    keys: Keys,
    divergence: Callable = hutchinson,
    order: int = 4,
    data_std: ArrayLike = 0.5,
) -> Each:
    """log p(x_0) of each example in nats, for data on a continuous scale.

    Equations 38 to 40 of Song et al. (2021, score SDE): log p changes along the ODE by the divergence of its slope.
    `sigmas` decrease as for a sampler and are run through upward, order (1, 2 or 4, static) network calls a step, by
    the rule of Euler, Heun or Kutta. `divergence` is `hutchinson` or `exact`, by partial with settings; an example
    keeps its probes along the way, so that the estimate has no bias but that of the steps.

    Three traps. p is the density of x_0 plus noise of sigmas[-1], at x_0 itself: where the data are on a thin sheet it
    has no limit as sigmas[-1] goes to 0. At sigmas[0] p is taken to be normal, of mean zero and variance
    sigmas[0]^2 + data_std^2, which neglects all else of the data; data_std = 0 is what samplers start from, and needs
    many steps. For bytes, `dequantize` first. Between the ends the ODE is solved for x / sqrt(sigma^2 + data_std^2) in
    log(sigma), so for normal data of mean zero and this deviation any number of steps is exact. Raises ValueError for
    an order that is none of these.
    """
    if order not in RULES:
        raise ValueError(f"log_likelihood has the orders {list(RULES)}, not {order}")
    places, shares = (jnp.asarray(each, sigmas.dtype) for each in RULES[order])

    def slope(level, z):
        sigma = jnp.exp(level)
        length = jnp.hypot(data_std, sigma)
        return ((data_std / length) ** 2 * (length * z) - denoise(length * z, sigma, cond)) / length

    def step(carry, ends):
        z, gained = carry
        size = ends[1] - ends[0]

        def stage(carry, rule):
            before, moved, spread = carry
            place, share = rule
            here, rate = divergence(partial(slope, ends[0] + place * size), z + place * size * before, keys)
            return (here, moved + share * here, spread + share * rate), None

        nothing = (jnp.zeros_like(z), jnp.zeros_like(z), jnp.zeros_like(gained))
        (_, moved, spread), _ = jax.lax.scan(stage, nothing, (places, shares))
        return (z + size * moved, gained + size * spread), None

    levels = jnp.log(sigmas[::-1])
    first = jnp.hypot(data_std, sigmas[-1])
    start = x_0.astype(sigmas.dtype) / first
    ends = jnp.stack([levels[:-1], levels[1:]], axis=1)
    (z, gained), _ = jax.lax.scan(step, (start, jnp.zeros_like(start[:, 0, 0, 0])), ends)
    size = x_0[0].size
    at_noise = -0.5 * (jnp.sum(jnp.square(z), axis=(1, 2, 3)) + size * math.log(2 * math.pi))
    return at_noise + gained - size * jnp.log(first)


def dequantize(keys: Keys, picture: Bytes) -> Image:
    """Bytes to [-1, 1], each anywhere within its own 256th: (byte + u) / 128 - 1 with u uniform in [0, 1).

    The density of these bounds the probability of the bytes: see `bits_per_dimension`. A network trained on
    byte / 127.5 - 1 knows the middle of each 256th up to half its width.
    """
    u = jax.vmap(lambda key: jax.random.uniform(key, picture.shape[1:]))(for_purpose(keys, "dequantize"))
    return (picture.astype(u.dtype) + u) / 128 - 1


def bits_per_dimension(log_likelihood: Each, shape: tuple[int, ...], levels: int = 256) -> Each:
    """Bits for each pixel and channel, from nats of a picture in [-1, 1] of `shape` (height, width, channel).

    -log_likelihood / (size log 2) + log2(levels / 2): the density times the width 2 / levels of a level. Its mean over
    `dequantize` is an upper bound of the bits that the model needs for the discrete picture (Theis et al. 2016).
    """
    return math.log2(levels / 2) - log_likelihood / (math.prod(shape) * math.log(2))
