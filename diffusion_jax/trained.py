"""A trained model, from the folder of a run or from the weights that the package ships."""

from pathlib import Path
from typing import NamedTuple

import jax
from ml_collections import ConfigDict

from diffusion_jax import build, pretrained
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

    Raises ValueError where neither or both are, or where the parameters are not those of the config;
    FileNotFoundError where nothing is there.
    """
    if (workdir is None) == (name is None):
        raise ValueError(f"give either --workdir=RUN or --pretrained=NAME ({', '.join(pretrained.names())})")
    if workdir is not None:
        config = ConfigDict(checkpoint.read_config(Path(workdir)))
        params, step = checkpoint.load_params(Path(workdir))
        title = f"{workdir} after {step:,} steps"
    else:
        config, params = pretrained.load(name)
        title = f"the pretrained {name}"
    experiment = build.build(config)
    check_shapes(params, jax.eval_shape(experiment.init, jax.random.key(0)), title)
    return Trained(title, config, experiment, params)


def check_shapes(params: Params, expected: Params, title: str) -> None:
    """Raise ValueError, naming the first leaf that differs, unless two trees have leaves of the same shapes."""
    found, wanted = (
        {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (params, expected)
    )
    wrong = sorted(path for path in found.keys() | wanted.keys() if found.get(path) != wanted.get(path))
    if wrong:
        path = wrong[0]
        raise ValueError(
            f"{title} does not hold the parameters of its config: {len(wrong)} differ, first {path}, "
            f"which is {found.get(path, 'missing')} and should be {wanted.get(path, 'absent')}"
        )
