"""How many bits does a model need for a held-out picture, at most? Its variational bound, of bytes.

Data on a continuous scale have a density, not a probability, so bytes are dequantized first: each lies anywhere within
its own 256th of [-1, 1]. The bound of that density, times the width 2 / 256, bounds the bits of the bytes.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.diffusion import likelihood
from diffusion_jax.diffusion import variational_bound as bound
from diffusion_jax.evaluation import intervals

SEED = 0


class Bits(NamedTuple):
    """Bits per dimension (pixel and channel): the mean over pictures, an upper bound but for its errors.

    interval: Student's, over pictures; standard_error: of the mean over pictures, draws' noise included. draws_error:
    the part of it that more draws would take away. prior, diffusion, reconstruction: of which the mean consists, after
    `bits_per_dimension`'s log2(128), which is the change of scale from [0, 255] to [-1, 1]. n: pictures.
    """

    interval: intervals.Interval
    standard_error: float
    draws_error: float
    prior: float
    diffusion: float
    reconstruction: float
    n: int


def make_bits(
    network: Callable,
    encode: Callable,
    schedule,
    parameterization,
    draws: int = 16,
    data_std: float = 0.5,
    seed: int = SEED,
) -> Callable:
    """A pure function (params, batch) -> bits per dimension of each picture, by name, (batch,) each.

    network: (params) -> Network; encode: (params, tokens, mask) -> Cond. batch: image (uint8), tokens, mask, place.
    Where a byte lies in its 256th, the levels and the noise are functions of the place. "total" has the scale of
    bytes; "prior", "diffusion", "reconstruction" and "error", which is of the draws, are nats over size log 2.
    draws, data_std, and what is raised: see `variational_bound`. Only the ends of the schedule count; the bound is
    loose where the smallest sigma is large beside 2 / 256, and where the largest leaves something of the picture.
    """

    def bits(params, batch):
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), batch["place"])
        x_0 = likelihood.dequantize(keys, batch["image"])
        cond = encode(params, batch["tokens"], batch["mask"])
        found = bound.variational_bound(
            network(params), x_0, cond, keys,
            schedule=schedule, parameterization=parameterization, draws=draws, data_std=data_std,
        )  # fmt: skip
        nats = found.prior + found.diffusion + found.reconstruction
        each = {name: value / (x_0[0].size * jnp.log(2.0)) for name, value in found._asdict().items()}
        return each | {"total": likelihood.bits_per_dimension(-nats, x_0.shape[1:])}

    return bits


def summarize(found: Sequence[Mapping], level: float = 0.95) -> Bits:
    """The bits of all batches of `make_bits`. Raises ValueError as `intervals.checked` does."""
    each = {name: np.concatenate([np.asarray(part[name], np.float64) for part in found]) for name in found[0]}
    total = each["total"]
    n = len(total)
    interval = intervals.student_t(total, level)
    return Bits(
        interval=interval,
        standard_error=float(total.std(ddof=1) / n**0.5),
        draws_error=float(np.sqrt(np.sum(each["error"] ** 2)) / n),
        **{name: float(each[name].mean()) for name in ("prior", "diffusion", "reconstruction")},
        n=n,
    )
