"""A trained model, from the folder of a run or from the weights that the package ships."""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import PyTree
from ml_collections import ConfigDict

from diffusion_jax import build, finetuning, models, pretrained
from diffusion_jax import config as entries
from diffusion_jax.files import write_json
from diffusion_jax.interop.huggingface import described, tensor_names
from diffusion_jax.interop.lora_file import Adapter, dotted, save_peft
from diffusion_jax.interop.safetensors_file import save_params
from diffusion_jax.training import checkpoint
from diffusion_jax.training.run_folder import read_config
from diffusion_jax.types import Params


class Trained(NamedTuple):
    """name says where it comes from, and after how many steps; params are the averaged (EMA) ones."""

    name: str
    config: ConfigDict
    experiment: build.Experiment
    params: Params


def load(workdir: str | Path | None = None, name: str | None = None) -> Trained:
    """The newest checkpoint of a run folder, or the shipped weights called `name`: exactly one of the two is given.

    Raises ValueError where neither or both are, where the parameters are not those of the config, or where the config
    of the run names code that is not trusted; FileNotFoundError where nothing is there.
    """
    if bool(workdir) == bool(name):
        raise ValueError(f"give either --workdir=RUN or --pretrained=NAME ({', '.join(pretrained.names())})")
    if workdir:
        config = ConfigDict(read_config(Path(workdir)))
        check_trust(config, workdir)
        home = Path(workdir)
        params, step = checkpoint.load_params(workdir)
        title = f"{workdir} after {step:,} steps"
    else:
        config, params = pretrained.load(name)
        home = pretrained.FOLDER / name
        title = f"the pretrained {name}"
    at_home(config.tokenizer, config.text_encoder, home / "text_encoder")
    experiment = build.build(config)
    experiment.text.check(home / "text_encoder")
    checkpoint.check_shapes(params, jax.eval_shape(experiment.init, jax.random.key(0)), title)
    return Trained(title, config, experiment, params)


def begun(begin: str) -> Trained:
    """What config.begin names: the shipped weights of that name, or else a run folder. Raises as `load` does."""
    return load(None, begin) if begin in pretrained.names() else load(begin)


def at_home(tokenizer: Mapping | ConfigDict, encoder: Mapping | ConfigDict, folder: Path) -> None:
    """Let entries of a text encoder that was trained elsewhere find what they need of it in the folder of the run.

    Where captions came embedded, the run has no encoder: the one of the entry's own folder embeds them.
    """
    if encoder["name"] == "joined":
        for number, pair in enumerate(zip(tokenizer["tokenizers"], encoder["encoders"], strict=True)):
            at_home(*pair, folder / f"encoder_{number}")
    elif encoder["name"] == "pretrained" and not encoder.get("cached"):
        encoder["folder"] = str(folder)
        if tokenizer["name"] == "pretrained":
            tokenizer["folder"] = str(folder)


def check_trust(config: ConfigDict, workdir: str | Path) -> None:
    """Raise ValueError where a run's config names functions of modules that this installation does not trust.

    A run folder may come from anybody, and "os:system" is a function too. Trusted are this package, experiments/, and
    the modules that the environment's DIFFUSION_JAX_TRUST names, with commas between them.
    """
    trusted = {"diffusion_jax", "experiments", *os.environ.get("DIFFUSION_JAX_TRUST", "").split(",")}
    for name in entries.foreign_names(config.to_dict()):
        if name.split(":")[0].split(".")[0] not in trusted:
            module = name.split(":")[0].split(".")[0]
            raise ValueError(
                f"the config of {workdir} calls {name}, which is not of this project: read that code, and if you trust "
                f"it, set DIFFUSION_JAX_TRUST={module}"
            )


def merged(model: Trained) -> Trained:
    """The same model without factors of LoRA, which are added to the kernels that they adapt; as it is without any."""
    if not (entry := finetuning.settings(model.config.to_dict().get("lora"))):
        return model
    config = ConfigDict(model.config.to_dict())
    config.lora.rank = 0
    params = finetuning.plain(jax.tree.map(jnp.asarray, model.params), entry["alpha"])
    return model._replace(config=config, experiment=build.build(config), params=params)


def beginning(begin: str, expected: PyTree) -> Params:
    """What a training begins with: averaged parameters of a run folder, or of the shipped weights of that name.

    expected: arrays or shapes of the model that is to be trained. Its factors of LoRA are not among those returned, and
    those of the old model are merged. What the old model has beside the parts of this one is left out.
    Raises ValueError or FileNotFoundError, saying config.begin, where `load` does or parameters are not there or of
    another shape.
    """
    expected = {name: part for name, part in expected.items() if name != finetuning.FACTORS}
    try:
        model = merged(begun(begin))
        found = {name: part for name, part in model.params.items() if name in expected}
        checkpoint.check_shapes(found, expected, model.name, "the config that begins with it")
    except (ValueError, FileNotFoundError) as error:
        raise type(error)(f"config.begin: {error}") from error
    return jax.tree.map(lambda old, new: jnp.array(old, new.dtype), found, expected)


def export(workdir: str | Path, folder: str | Path, merge: bool = False, dtype: str = "float16") -> Path:
    """Write a run's averaged parameters (EMA) and its config into a folder, as `pretrained` holds them.

    They are weights.safetensors in float16, or in float32, which keeps every bit; of the checkpoint, however many
    processes and devices wrote it, nothing else is read. merge: factors of LoRA are added to what they adapt, and none
    is written. Raises ValueError for another dtype, and for a parameter that float16 cannot hold.
    """
    model, folder = load(workdir), Path(folder)
    model = merged(model) if merge else model
    if (described := Path(workdir) / "text_encoder").exists():
        shutil.copytree(described, folder / "text_encoder", dirs_exist_ok=True)
    save_params(folder / "weights.safetensors", model.params, {"trained": model.name}, dtype)
    write_json(folder / "config.json", entries.as_json(model.config))
    return folder


def export_lora(workdir: str | Path, folder: str | Path) -> Path:
    """Write the averaged factors of a run as peft does, for `interop.lora_file.load_lora`: a folder for each part.

    FOLDER/text_encoder has transformers' names, which peft loads into that encoder, where the encoder is of a family
    that `interop.huggingface` knows. FOLDER/denoiser, and other text encoders, have the modules' own, with dots.
    Raises ValueError for a run without factors.
    """
    model, folder = load(workdir), Path(folder)
    if not (entry := finetuning.settings(model.config.to_dict().get("lora"))):
        raise ValueError(f"{workdir} has no factors of LoRA: config.lora was not set when it was trained")
    for part, factors in model.params[finetuning.FACTORS].items():
        names = _names_of_encoder(model.config) if part == "text_encoder" else dotted
        save_peft(folder / part, Adapter(factors, entry["alpha"]), names)
    return folder


def _names_of_encoder(config: ConfigDict) -> Callable:
    name = config.text_encoder.name
    if name == "pretrained":
        return tensor_names(described(config.text_encoder.folder))
    if name in entries.public_names(models):
        return tensor_names(build.named_part(config, "text_encoder", models)()) or dotted
    return dotted
