"""Data near one of k pictures, or exactly one of them: a mixture of normal laws, and a finite data set.

In the labeled laws cond decides among the pictures: `Cond.text_emb[:, 0, j]` multiplies the weight of every picture of
label j, so a one-hot vector is that label alone, and ones are the law of all, the null_cond of guidance. Make conds
with `label` and `unlabeled`. The laws without labels read no cond, so any may be given.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from diffusion_jax.diffusion.oracle.components import of_components
from diffusion_jax.diffusion.oracle.law import Oracle
from diffusion_jax.types import Cond

Pictures = Float[Array, "k height width channel"]


def mixture(means: Pictures, std: ArrayLike, weights: Float[Array, " k"]) -> Oracle:
    """Data normal around one of k pictures, drawn by its weight.

    std: the deviation of every pixel, >= 0, one for each picture or one for all. weights: >= 0, need not sum to one.
    """
    return of_components(means, std, lambda batch, cond: _normalized(jnp.log(weights)[None], batch), len(means))


def labeled_mixture(means: Pictures, std: ArrayLike, weights: Float[Array, " k"]) -> Oracle:
    """`mixture` whose cond names the picture, each a label of its own.

    Raises ValueError for a cond that `label` or `unlabeled` with this k did not make. A cond that leaves no picture any
    weight has no law, and every answer is NaN.
    """
    k = len(means)
    return of_components(means, std, _by_label(jnp.log(weights), jnp.arange(k), k), k)


def dataset(pictures: Pictures, std: ArrayLike = 0.0, chunk: int = 256) -> Oracle:
    """Each of the pictures with the same probability: the law of a model that has memorized them.

    Its D is equation 57 of Karras et al. (2022). std: as of `mixture`; above 0, of a kernel density estimate. chunk
    (static): how many pictures are compared with x at a time. Memory is that of batch times chunk pictures, whatever
    their number; the answers do not depend on it.
    """
    even = jnp.zeros(len(pictures), pictures.dtype)
    return of_components(pictures, std, lambda batch, cond: _normalized(even[None], batch), chunk)


def labeled_dataset(
    pictures: Pictures, labels: Int[Array, " k"], classes: int, std: ArrayLike = 0.0, chunk: int = 256
) -> Oracle:
    """`dataset` whose cond names the label of a picture; labels: in [0, classes).

    Raises ValueError for a cond that `label` or `unlabeled` with this number of classes did not make.
    """
    even = jnp.zeros(len(pictures), pictures.dtype)
    return of_components(pictures, std, _by_label(even, labels, classes), chunk)


def label(which: Int[Array, " batch"], k: int) -> Cond:
    """The cond that is label `which`, in [0, k), of k labels; outside of that range it is none, and has no law."""
    return Cond(jax.nn.one_hot(which, k)[:, None], jnp.ones((len(which), 1), bool))


def unlabeled(batch: int, k: int) -> Cond:
    """The cond that is any of k labels: the null_cond of guidance."""
    return Cond(jnp.ones((batch, 1, k)), jnp.ones((batch, 1), bool))


def _by_label(log_weights: Float[Array, " k"], labels: Int[Array, " k"], classes: int):
    def of_cond(batch: int, cond: Cond) -> Float[Array, "batch k"]:
        if cond.text_emb.shape[1:] != (1, classes):
            expected = f"(batch, 1, {classes}), as `label` and `unlabeled` make it"
            raise ValueError(f"this law has {classes} labels: text_emb must be {expected}, not {cond.text_emb.shape}")
        chosen = jnp.log(cond.text_emb[:, 0].astype(log_weights.dtype))
        return _normalized(log_weights[None] + chosen[:, labels], batch)

    return of_cond


def _normalized(log_weights: Float[Array, "some k"], batch: int) -> Float[Array, "batch k"]:
    return jnp.broadcast_to(jax.nn.log_softmax(log_weights), (batch, log_weights.shape[1]))
