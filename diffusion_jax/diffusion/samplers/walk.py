"""From level to level: what all samplers share.

A sampler is the rule for one move:

    move(x, memory, sigma, sigma_next, index) -> x at sigma_next, D(x, sigma), memory

The last sigma is its own next, so its move leads nowhere and only its D counts. A move calls the network once, and
then the compiled program holds it once; what needs two calls for a step visits a level twice.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from diffusion_jax.diffusion.keys import folded, for_purpose, normal
from diffusion_jax.types import Cond, Image, Keys, Sampler, Sigmas


class Trace(NamedTuple):
    """The way of the pictures out of noise: entry i is at sigmas[i]."""

    x: Float[Array, "n batch height width channel"]
    x_0: Float[Array, "n batch height width channel"]  # the estimate D(x, sigma)


Result = Image | tuple[Image, Trace]


def walk(move: Callable, x: Image, sigmas: Sigmas, trace: bool, memory: Callable = lambda x, sigma: None) -> Result:
    """Makes the move at every sigma; memory(x, sigmas[0]) is what the first move remembers."""
    x = x.astype(sigmas.dtype)

    def body(carry, level):
        x, _, memory = carry
        x_next, x_0, memory = move(x, memory, *level)
        return (x_next, x_0, memory), Trace(x, x_0) if trace else None

    levels = sigmas, following(sigmas), jnp.arange(sigmas.size)
    (_, x_0, _), path = jax.lax.scan(body, (x, jnp.zeros_like(x), memory(x, sigmas[0])), levels)
    return (x_0, path) if trace else x_0


def following(sigmas: Sigmas) -> Sigmas:
    """The next sigma of each; the last is its own next."""
    return jnp.concatenate([sigmas[1:], sigmas[-1:]])


def thinned(result: Result, trace: bool, keep: slice | Int[Array, " n"]) -> Result:
    """The result with the visits in `keep` alone in its trace."""
    return (result[0], jax.tree.map(lambda path: path[keep], result[1])) if trace else result


def noise(keys: Keys, index: ArrayLike, x: Image) -> Image:
    """Standard normal noise for the move at this index."""
    return normal(folded(for_purpose(keys, "sampler"), index), x.shape[1:], x.dtype)


def nothing_yet(order: int) -> Callable:
    """The memory of a walk's beginning, with room for `order` values."""
    return lambda x, sigma: jnp.zeros((order, *x.shape), x.dtype)


def root(square: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The square root, with the gradient zero at zero: where no noise is added, none of its size is learned."""
    some = square > 0
    return jnp.where(some, jnp.sqrt(jnp.where(some, square, 1)), 0)


def remember(newest: Image, memory: Float[Array, "order ..."]) -> Float[Array, "order ..."]:
    """The memory with the newest value first, and without the oldest."""
    return jnp.concatenate([newest[None], memory[:-1]])


def weighted(weights: Float[Array, " order"], memory: Float[Array, "order ..."]) -> Image:
    """The weighted sum of the remembered values."""
    return jnp.tensordot(weights, memory, axes=1)


def steps_for(sampler: Sampler, nfe: int) -> int:
    """The number of levels at which a sampler calls the network nfe times; its calls are counted, nothing is computed.

    Both branches of a `lax.cond` count. Raises ValueError if no number of levels has that cost.
    """
    first, second, third = (_calls(sampler, n) for n in (1, 2, 3))
    each = second - first
    if each < 1 or third - second != each:
        raise ValueError(f"the calls of this sampler do not grow evenly with its levels: {first}, {second}, {third}")
    if nfe < first:
        raise ValueError(f"nfe is {nfe}, but this sampler calls the network at least {first} time(s)")
    levels, rest = divmod(nfe - first, each)
    if rest:
        raise ValueError(f"nfe {nfe} cannot be had with this sampler: take {nfe - rest} or {nfe - rest + each}")
    return levels + 1


def _calls(sampler: Sampler, levels: int) -> int:
    sigmas = []

    def denoise(x, sigma, cond):
        sigmas.append(sigma)
        return x

    def run():
        cond = Cond(jnp.zeros((1, 1, 1)), jnp.ones((1, 1), bool))
        return sampler(denoise, jnp.ones((1, 1, 1, 1)), jnp.ones(levels), cond, jax.random.key(0)[None])

    with jax.disable_jit():  # a scan is then a loop of Python
        jax.eval_shape(run)
    return len(sigmas)
