"""A trained model, from the folder of a run or from the weights that the package ships."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
from ml_collections import ConfigDict

from diffusion_jax import build, pretrained
from diffusion_jax import config as entries
from diffusion_jax.files import write_json
from diffusion_jax.interop.safetensors_file import save_params
from diffusion_jax.training import checkpoint
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
        config = ConfigDict(checkpoint.read_config(Path(workdir)))
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


def export(workdir: str | Path, folder: str | Path) -> Path:
    """Write a run's averaged parameters (float16) and its config into a folder, as `pretrained` holds them."""
    model, folder = load(workdir), Path(folder)
    if (described := Path(workdir) / "text_encoder").exists():
        shutil.copytree(described, folder / "text_encoder", dirs_exist_ok=True)
    save_params(folder / "weights.safetensors", model.params, {"trained": model.name}, dtype="float16")
    write_json(folder / "config.json", entries.as_json(model.config))
    return folder
