"""From a config to an experiment: the one place where the parts meet, and the last that sees the config."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from diffusion_jax import config as entries
from diffusion_jax import finetuning, models, text
from diffusion_jax.data import examples, pipeline, sources, tokenizers
from diffusion_jax.diffusion import (
    denoiser,
    guidance,
    loss,
    noise_levels,
    parameterization,
    schedules,
    weighting,
)
from diffusion_jax.diffusion import keys as random_keys
from diffusion_jax.experiment import Experiment
from diffusion_jax.training import optimizer, power_ema
from diffusion_jax.types import Cond, Network, Params


class Objective(NamedTuple):
    """What a network is trained to do: the arguments of `diffusion_loss`."""

    schedule: schedules.Schedule
    parameterization: Callable
    noise_levels: Callable
    weighting: Callable
    uncertainty: Callable | None = None  # log_snr -> u, where it is learned


def build(config: ConfigDict, data_dir: str | None = None) -> Experiment:
    """Put the parts together that a config names. Raises ValueError, naming the entry, where one does not fit.

    data_dir: for a training, which reads embedded captions there if the config says so; see `text.pretrained`.
    """
    part = partial(named_part, config)
    aim = objective(config)
    knots = config.get("learned_schedule", 0)
    unsure = models.Uncertainty(features) if (features := config.get("uncertainty", 0)) else None
    words = text_of(config, data_dir)
    unet = part("denoiser", models)()
    shape = (config.resolution, config.resolution, 3)
    null = tuple(map(jnp.asarray, words.tokenize([""])))

    def encode(params: Params, tokens, mask, dropout_keys=None) -> Cond:
        return words.encode(params.get("text_encoder"), tokens, mask, dropout_keys)

    def network(params: Params, dropout_keys=None, **changes) -> Network:
        module = unet.clone(**changes)

        def predict(x_t, log_snr, cond):
            return module.apply({"params": params["denoiser"]}, x_t, log_snr, cond, dropout_keys)

        return denoiser.unit_variance(predict, aim.schedule.alpha_sigma)

    def init(key) -> Params:
        text_key, key = jax.random.split(key)
        params = {"text_encoder": words.init(text_key)} if words.init else {}
        cond = encode(params, *null)
        x_t = jnp.zeros((1, *shape))
        if knots:
            params["schedule"] = {"falls": jnp.zeros(knots)}
        params["denoiser"] = unet.init(key, x_t, jnp.zeros(1), cond)["params"]
        return params | ({"uncertainty": unsure.init(key, jnp.zeros(1))["params"]} if unsure else {})

    def batch_loss(params: Params, batch: dict, all_keys, rows=None):
        keys = all_keys if rows is None else all_keys[rows]
        x_0 = batch["image"].astype(jnp.float32) / 127.5 - 1
        # A dropped caption is the empty one. Dropped before it is encoded, it costs nothing; one more row for the empty
        # caption would not divide among the devices, and they would all encode all captions.
        captions = Cond(batch["tokens"], batch["mask"])
        tokens, mask = guidance.drop(captions, Cond(*null), config.caption_dropout, keys)
        cond = encode(params, tokens, mask, random_keys.for_purpose(keys, "text dropout"))
        predict = network(params, random_keys.for_purpose(keys, "dropout"))
        learned = partial(unsure.apply, {"params": params["uncertainty"]}) if unsure else None
        if not knots:
            known = _with_uncertainty(aim, learned)._asdict()
            return loss.diffusion_loss(predict, x_0, cond, all_keys, rows=rows, **known)
        # The mean of the losses trains the network, their scatter the schedule, which the mean does not depend on.
        fixed, falls = jax.lax.stop_gradient, params["schedule"]["falls"]
        mean_of, scatter_of = (objective(config, _learned(aim.schedule, each)) for each in (fixed(falls), falls))
        total, metrics = loss.diffusion_loss(predict, x_0, cond, keys, **_with_uncertainty(mean_of, learned)._asdict())
        predict = network(fixed(params), random_keys.for_purpose(keys, "dropout"))
        known = {name: value for name, value in scatter_of._asdict().items() if name != "uncertainty"}
        spread = loss.scatter(predict, x_0, fixed(cond), keys, **known)
        return total + spread - fixed(spread), metrics | {"scatter": spread}

    made = Experiment(
        text=words,
        init=init,
        encode=encode,
        network=network,
        loss=batch_loss,
        optimizer=power_ema.following(part("optimizer", optimizer)(), config.get("ema_lengths", ())),
        schedule=aim.schedule,
        parameterization=aim.parameterization,
        picture_shape=shape,
        fixed=("text_encoder",) if words.init and not words.trained else (),
    )
    lora = finetuning.settings(config.to_dict().get("lora"))
    return finetuning.with_lora(made, begun=bool(config.get("begin")), **lora) if lora else made


def text_of(config: ConfigDict, data_dir: str | None = None) -> text.Text:
    """A config's tokenizer and text encoder: one of `models`, trained from nothing, or those of `text`."""
    part, encoder = partial(named_part, config), config.text_encoder.get("name")
    if encoder not in ("joined", "pretrained"):
        return text.jointly_trained(part("tokenizer", tokenizers)(), part("text_encoder", models)())
    if encoder == "joined":
        make = partial(part("text_encoder", text), encoders=[text_of(each, data_dir) for each in text_parts(config)])
    else:
        kept = {"caches": caches(data_dir)} if data_dir else {}
        make = partial(part("text_encoder", text, given=1), part("tokenizer", tokenizers)(), **kept)
    try:
        return make()
    except (ValueError, FileNotFoundError) as error:
        raise type(error)(f"config.text_encoder: {error}") from error


def text_parts(config: ConfigDict) -> list[ConfigDict]:
    """Of joined text encoders, for each a config that has only its tokenizer and itself.

    Raises ValueError where there are not as many tokenizers.
    """
    tokenizers_of, encoders = config.tokenizer.get("tokenizers", ()), config.text_encoder.get("encoders", ())
    if len(tokenizers_of) != len(encoders):
        raise ValueError(
            f"config.tokenizer: {len(tokenizers_of)} tokenizers for {len(encoders)} joined text encoders: set "
            "dict(name='joined', tokenizers=(...)), with one for each"
        )
    pairs = zip(tokenizers_of, encoders, strict=True)
    return [ConfigDict(dict(tokenizer=tokenizer, text_encoder=encoder)) for tokenizer, encoder in pairs]


def caches(data_dir: str) -> Path:
    """Where embedded captions lie, unless `data embed` is told another place."""
    return Path(data_dir) / "embeddings"


def objective(config: ConfigDict, schedule: schedules.Schedule | None = None) -> Objective:
    """What of a config is the training objective, of a given schedule or the config's own.

    Raises ValueError, naming the entry, where one does not fit.
    """
    part = partial(named_part, config)
    schedule = schedule or part("schedule", schedules, inner=INNER)()
    if not isinstance(schedule, schedules.Schedule):
        raise ValueError(f"config.schedule: {config.schedule.name} makes no schedule; cosine, for one, does")
    weigh = part("weighting", weighting, given=1, named=("schedule",), inner=INNER)
    if config.get("learned_schedule", 0) and not entries.accepted(weigh, schedule=schedule):
        raise ValueError(
            "config.learned_schedule: by config.weighting some schedules have a smaller loss than others, and the "
            "smallest is no use; set per_log_snr or elbo, by which all have the same"
        )
    if config.get("learned_schedule", 0) and config.get("uncertainty", 0) and config.noise_levels.name == "by_loss":
        raise ValueError("config.learned_schedule: by_loss draws levels without regard to it: take another law or none")
    law = part("noise_levels", noise_levels, given=2, named=("loss_at",))
    if entries.accepted(law, loss_at=None) and not config.get("uncertainty", 0):
        raise ValueError("config.noise_levels: by_loss needs to know the loss: set config.uncertainty, to 128 say")
    return Objective(
        schedule=schedule,
        parameterization=part("parameterization", parameterization, given=2),
        noise_levels=law,
        weighting=partial(weigh, **entries.accepted(weigh, schedule=schedule)),
    )


def _learned(schedule: schedules.Schedule, falls) -> schedules.Schedule:
    """From end to end of the schedule, by the way that was learned."""
    ends = (schedule.log_snr(jnp.asarray(t)) for t in (1.0, 0.0))
    return schedules.from_knots(falls, *ends)._replace(alpha_sigma=schedule.alpha_sigma)


def _with_uncertainty(aim: Objective, uncertainty: Callable | None) -> Objective:
    """The objective with what was learned so far of the loss at each level, for the laws that want to know."""
    if uncertainty is None:
        return aim
    known = entries.accepted(aim.noise_levels, loss_at=lambda log_snr: jnp.exp(uncertainty(log_snr)))
    return aim._replace(noise_levels=partial(aim.noise_levels, **known), uncertainty=uncertainty)


def named_part(config: ConfigDict, entry: str, home, given: int = 0, named: Sequence[str] = (), inner=None) -> Callable:
    """One entry of a config as a function, with errors that say which entry they are about; see `config.bind`."""
    if not isinstance(config.get(entry), ConfigDict):
        raise ValueError(f"config.{entry} is {config.get(entry)!r}: write dict(name=..., **arguments)")
    try:
        return entries.bind(config[entry], home, given, named, inner or {})
    except ValueError as error:
        raise ValueError(f"config.{entry}: {error}") from error


def _schedule_of(entry: ConfigDict) -> schedules.Schedule:
    return entries.bind(entry, schedules, inner=INNER)()


# Arguments that are entries themselves: a schedule made of schedules, a weighting made of one.
INNER = dict.fromkeys(("schedule", "first", "second"), _schedule_of)
INNER["weighting"] = lambda entry: entries.bind(entry, weighting, given=1, inner=INNER)


def source(config: ConfigDict, split: str, data_dir: str) -> examples.Source:
    """The captioned pictures of a split, "train" or "validation". Raises FileNotFoundError where they are not built."""
    make = named_part(config, "data", sources, named=("split", "data_dir"))
    return make(split=split, **entries.accepted(make, data_dir=data_dir))


def batches(config: ConfigDict, experiment: Experiment, data_dir: str, rows: np.ndarray | None = None):
    """These rows of every global training batch, or all, from the first on; see `data.pipeline`."""
    return pipeline.batches(
        source(config, "train", data_dir),
        resolution=config.resolution,
        tokenizer=experiment.text.tokenize,
        batch_size=config.batch_size,
        seed=config.seed,
        rows=rows,
        **config.loader,
    )


def fixed_sets(config: ConfigDict, experiment: Experiment, data_dir: str) -> dict[str, dict]:
    """What a run is judged by: `validation_size` held-out pictures, "validation", and as many of its own, "seen"."""
    take = partial(
        pipeline.fixed,
        resolution=config.resolution,
        tokenizer=experiment.text.tokenize,
        count=config.validation_size,
        **({"fit": config.loader.fit} if "fit" in config.loader else {}),
    )
    splits = {"validation": "validation", "seen": "train"}
    return {title: take(source(config, split, data_dir)) for title, split in splits.items()}
