"""Configs and schedules by name, drawn and checked."""

import itertools
import runpy
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from diffusion_jax.objectives.drawing import draw
from diffusion_jax.objectives.lint import lint, same
from diffusion_jax.objectives.sheet import sheet

PLAIN = dict(
    resolution=64,
    parameterization=dict(name="v_prediction"),
    noise_levels=dict(name="uniform"),
    weighting=dict(name="edm", sigma_data=1.0),
    sampling=dict(sampler=dict(name="dpmpp_2m"), grid=dict(name="karras"), nfe=20, sigma_min=0.02, sigma_max=80.0),
)  # around a schedule that comes without a config: v, with the plain loss on it


def show(names: Sequence[str], out: str | Path) -> None:
    """Draw configs (Python files with get_config) and schedules (by name) on one PNG, and print what may be wrong.

    Raises FileNotFoundError for a config that is not there, ValueError for an unknown schedule or a bad config.
    """
    sheets = [sheet(title, config) for title, config in map(config_of, names)]
    draw(sheets, out)
    lines = [*itertools.chain(*map(lint, sheets)), *same(sheets)]
    print("\n".join(lines or ["nothing to warn of"]))
    print(f"look at {out}")


def config_of(name: str) -> tuple[str, ConfigDict]:
    """A title and a config: that of a Python file, or the plain one with the schedule of that name."""
    if not name.endswith(".py"):
        return name, ConfigDict(PLAIN | {"schedule": dict(name=name)})
    if not Path(name).is_file():
        raise FileNotFoundError(f"there is no config {name}: give a file with get_config(), or a schedule's name")
    make = runpy.run_path(name).get("get_config")
    if make is None:
        raise ValueError(f"{name} has no get_config(): a config is a file with that function")
    return Path(name).stem, make()
