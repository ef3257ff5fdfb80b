"""What a sweep has left in its folder, read with care: half-written and missing things are told as such."""

import contextlib
import json
from numbers import Real
from pathlib import Path
from typing import NamedTuple

from diffusion_jax.sweeps.standings import STATUS
from diffusion_jax.training.metrics import read_metrics


class Run(NamedTuple):
    """An arm with a seed. record: what was measured, None where nothing was, or where that file is damaged."""

    arm: str
    seed: int
    state: str
    folder: Path
    seconds: float
    said: str
    record: dict | None
    damaged: str
    metrics: list[dict]
    versions: dict


class Sweep(NamedTuple):
    """arms: {name: the lines by which its config differs from get_config()'s}. strip: the pictures of a record."""

    folder: Path
    question: str
    about: str
    preset: str | None
    seeds: int
    replicates: str
    against: str | None
    arms: dict[str, list[str]]
    runs: dict[tuple[str, int], Run]


class Measured(NamedTuple):
    """One figure of all runs, {arm: {seed: figure}}; None: crashed, NaN: diverged. about: as the records tell it.

    apart: in what runs were measured differently, so that their figures do not compare; nothing where they were not.
    """

    name: str
    about: dict
    values: dict[str, dict[int, float | None]]
    apart: str = ""


def read(folder: Path) -> Sweep:
    """The sweep of a folder. Raises FileNotFoundError where there is none, ValueError where nothing was measured."""
    try:
        told = json.loads((folder / STATUS).read_text("utf-8"))
        runs = {(each["arm"], each["seed"]): _run(folder, each) for each in told["runs"]}
        arms = {arm["arm"]: arm["differs"] for arm in told["arms"]}
        known = (told["question"], told["about"], told["preset"], told["seeds"], told["replicates"])
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder} is no sweep: it has no {STATUS}, which diffusion-jax sweep writes") from None
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / STATUS} is damaged ({error}): the sweep's command writes it anew") from error
    if not any(run.record for run in runs.values()):
        raise ValueError(f"nothing is measured yet in {folder}: go on with the sweep, or set config.figures")
    return Sweep(folder, *known, told.get("against"), arms, runs)


def measured(sweep: Sweep) -> list[Measured]:
    """Every figure that any run has, those of the deciding measure first; arms without it have no value of it."""
    about: dict[str, list[dict]] = {}
    for run in sweep.runs.values():
        for name, figure in (run.record or {}).get("figures", {}).items():
            about.setdefault(name, []).append(figure)
    return [Measured(name, found[0], _values(sweep, name), _apart(found)) for name, found in about.items()]


def _apart(figures: list[dict]) -> str:
    told = []
    for key in ("n", "features", "better", "title"):
        known = {str(figure.get(key)) for figure in figures}
        if len(known) > 1:
            told.append(f"{key} is {' or '.join(sorted(known))}")
    return "; ".join(told)


def _values(sweep: Sweep, name: str) -> dict[str, dict[int, float | None]]:
    values: dict[str, dict[int, float | None]] = {arm: {} for arm in sweep.arms}
    for (arm, seed), run in sweep.runs.items():
        figure = (run.record or {}).get("figures", {}).get(name)
        if run.state == "failed":  # whatever an earlier process has left of it
            values[arm][seed] = None
        elif run.state == "diverged":
            values[arm][seed] = float("nan")
        elif figure is not None:
            values[arm][seed] = float("nan") if figure["value"] is None else figure["value"]
    return values


def _run(folder: Path, told: dict) -> Run:
    home, record, damaged = folder / told["folder"], None, ""
    if told.get("figures"):
        try:
            record = json.loads((folder / told["figures"]).read_text("utf-8"))
            if not all(isinstance(each["value"], Real | None) for each in record["figures"].values()):
                raise ValueError
        except FileNotFoundError:
            damaged = f"{told['figures']} is gone"
        except (ValueError, KeyError, TypeError, AttributeError):
            record, damaged = None, f"{told['figures']} is damaged"
        else:
            strip = record.get("pictures")
            record["strip"] = str((folder / told["figures"]).with_name(strip)) if strip else None
    metrics, versions = [], {}
    with contextlib.suppress(OSError):
        metrics = read_metrics(home / "metrics.jsonl")
    with contextlib.suppress(OSError, ValueError):
        versions = json.loads((home / "versions.json").read_text("utf-8"))
    kept = (told["state"], home, float(told["seconds"]), told["said"])
    return Run(told["arm"], told["seed"], *kept, record, damaged, metrics, versions)
