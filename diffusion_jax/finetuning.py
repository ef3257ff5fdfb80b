"""A model that is trained by factors of LoRA: what a config's `lora` entry makes of an experiment.

    config.begin = "runs/a"
    config.lora = dict(rank=8, alpha=8.0, where="cross_attention/")

A part of the model, the text encoder or the denoiser, that has a kernel so adapted stays as it began, bit for bit, and
its factors learn. A part that has none is trained, or left alone, as it would be without the entry: a pretrained text
encoder that is adapted beside a denoiser that begins from nothing is where="text_encoder/".
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
from jaxtyping import PyTree

from diffusion_jax.diffusion import keys as random_keys
from diffusion_jax.experiment import Experiment
from diffusion_jax.training import lora
from diffusion_jax.training.adaptation import adapted
from diffusion_jax.types import Params

FACTORS = "lora"  # what they are called among parameters
PARTS = ("text_encoder", "denoiser")
KINDS = dict(rank=(int, "an integer"), alpha=((int, float), "a number"), where=(str, "a regular expression"))


def settings(entry: Any) -> dict[str, Any] | None:
    """The arguments of `with_lora` in a config's entry, None where there is no entry or rank is 0.

    Raises ValueError for other names and values than rank, alpha (positive) and where; `with_lora` looks closer.
    """
    if entry is None:
        return None
    if not isinstance(entry, Mapping) or entry.keys() != KINDS.keys():
        raise ValueError(f"config.lora: it is {entry!r}: write dict(rank=8, alpha=8.0, where='denoiser/')")
    for name, (kind, words) in KINDS.items():
        if not isinstance(entry[name], kind) or isinstance(entry[name], bool):
            raise ValueError(f"config.lora: {name} is {entry[name]!r}: it is {words}")
    if not 0 < entry["alpha"] < math.inf:
        raise ValueError(f"config.lora: alpha is {entry['alpha']}: use a positive number, such as the rank")
    return {**entry, "alpha": float(entry["alpha"])} if entry["rank"] else None


def with_lora(experiment: Experiment, begun: bool, rank: int, alpha: float, where: str) -> Experiment:
    """The experiment with factors beside the parameters that they adapt, as params["lora"].

    All its functions take these parameters, and compute with merged ones. begun: whether every part begins with
    parameters that were trained before. rank, where: see `training.lora.init`, of paths such as
    "denoiser/middle_0/cross_attention/query/kernel"; alpha: see `training.lora.merged`.
    Raises ValueError where no kernel is found, a rank does not fit, or a part would begin from random numbers.
    """
    shapes = jax.eval_shape(experiment.init, jax.random.key(0))
    if "text_encoder" in where and "text_encoder" not in shapes:
        raise ValueError(
            f"config.lora: where={where!r} is about a text encoder, and this model has none, since captions come "
            "embedded: adapt the denoiser, or set config.text_encoder.cached to False"
        )

    def drawn(key: jax.Array, params: PyTree) -> Params:
        return lora.init(key, {name: params[name] for name in PARTS if name in params}, rank, where)

    try:
        parts = tuple(jax.eval_shape(partial(drawn, params=shapes), jax.random.key(0)))
    except ValueError as error:
        raise ValueError(f"config.lora: {str(error).removeprefix('LoRA: ')}") from error
    known = parts if begun else ("text_encoder",) if experiment.text.load else ()
    if unknown := [name for name in parts if name not in known]:
        raise ValueError(
            f"config.lora: the {' and the '.join(unknown)} would begin from random numbers, which factors of rank "
            f"{rank} cannot make a model of: set config.begin to a run, or let where={where!r} leave it out"
        )

    def init(key: jax.Array) -> Params:
        params = experiment.init(key)
        return params | {FACTORS: drawn(random_keys.for_purpose(key, FACTORS), params)}

    changed = partial(adapted, **{FACTORS: partial(lora.merged, alpha=alpha)})
    return experiment._replace(
        init=init,
        encode=changed(experiment.encode, parts),
        network=changed(experiment.network, parts),
        loss=changed(experiment.loss, parts),
        fixed=tuple(dict.fromkeys((*experiment.fixed, *parts))),
    )


def plain(params: Params, alpha: float) -> Params:
    """Parameters without factors that compute what these do with them."""
    return lora.merged({name: part for name, part in params.items() if name != FACTORS}, params[FACTORS], alpha)
