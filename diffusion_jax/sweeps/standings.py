"""Where each run of a sweep stands: read from the run folders, and told in status.json."""

import contextlib
import json
from pathlib import Path
from typing import NamedTuple

from diffusion_jax.files import write_json
from diffusion_jax.sweeps.plan import Plan, Run
from diffusion_jax.training import checkpoint_files, heartbeat
from diffusion_jax.training.metrics import read_metrics

STATUS = "status.json"


class Standing(NamedTuple):
    """state: waiting, running, done, failed, diverged, or left, as the sweep was asked to.

    loss: the last one logged. to_go: seconds, where a training tells its pace. seconds: what its processes took so far.
    code: with which its last process ended, and said its last line, where that failed.
    """

    run: Run
    state: str = "waiting"
    step: int = 0
    loss: float | None = None
    to_go: float | None = None
    seconds: float = 0.0
    code: int | None = None
    said: str = ""


def found(plan: Plan) -> list[Standing]:
    """Every run as its folder has it: done, or waiting to begin or to go on."""
    before = _seconds_before(plan.folder)
    return [found_one(Standing(run, seconds=before.get(_folder(plan, run), 0.0))) for run in plan.runs]


def finished(run: Run) -> bool:
    """Whether a checkpoint of the last step, or a later one, is there."""
    return max(checkpoint_files.steps_in(run.folder / "checkpoints"), default=0) >= run.config.train.steps


def looked_at(standing: Standing) -> Standing:
    """The standing of a run with the step, loss and pace that its folder tells now."""
    folder, steps = standing.run.folder, standing.run.config.train.steps
    step, loss = 0, None
    with contextlib.suppress(FileNotFoundError):
        for record in read_metrics(folder / "metrics.jsonl"):
            if "train/loss" in record:
                step, loss = int(record["step"]), float(record["train/loss"])
    pace = None
    for beat in heartbeat.read(folder, 1):
        step, pace = max(step, int(beat["step"])), beat["step_seconds"]
    return standing._replace(step=step, loss=loss, to_go=None if pace is None else max(steps - step, 0) * pace)


def write_status(plan: Plan, standings: list[Standing]) -> None:
    """Tell the sweep and its runs in FOLDER/status.json; folders in it are seen from there."""
    arms = [{"arm": arm.name, "digest": arm.digest, "differs": list(arm.differs)} for arm in plan.arms]
    write_json(
        plan.folder / STATUS,
        {
            "question": plan.question,
            "about": plan.about,
            "preset": plan.preset,
            "seeds": plan.seeds,
            "replicates": "drawing" if all(arm.config.train.steps == 0 for arm in plan.arms) else "training",
            "decides": _decides(plan),
            "against": plan.against,
            "arms": arms,
            "runs": [_told(plan, standing) for standing in standings],
        },
    )


def found_one(standing: Standing) -> Standing:
    """A standing as the folder of its run has it."""
    done = finished(standing.run)
    at = looked_at(standing._replace(state="done" if done else "waiting"))
    return at._replace(step=at.run.config.train.steps, to_go=0.0) if done else at


def figures_file(run: Run) -> Path:
    """Where the record of a run lies that is measured."""
    return run.folder / "figures" / f"{run.measured}.json"


def _decides(plan: Plan) -> str | None:
    """The first figure of the first measure, which a record names; None before there is one."""
    for run in plan.runs:
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError, StopIteration):
            return next(iter(json.loads(figures_file(run).read_text())["figures"]))
    return None


def _folder(plan: Plan, run: Run) -> str:
    return str(run.folder.relative_to(plan.folder))


def _seconds_before(folder: Path) -> dict[str, float]:
    """What the runs took by the last status; a damaged one is as good as none, as the runs speak for themselves."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        return {told["folder"]: float(told["seconds"]) for told in json.loads((folder / STATUS).read_text())["runs"]}
    return {}


def _told(plan: Plan, standing: Standing) -> dict:
    run, known = standing.run, standing._asdict()
    about = {"arm": run.arm, "seed": run.seed, "folder": _folder(plan, run)}
    figures = {name: known[name] for name in ("state", "step", "loss", "seconds", "code", "said")}
    record = str(file.relative_to(plan.folder)) if (file := figures_file(run)).exists() else None
    return about | figures | {"steps": run.config.train.steps, "seconds": round(standing.seconds, 1), "figures": record}
