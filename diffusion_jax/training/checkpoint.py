"""States on disk: written beside the run while it goes on, complete or not there at all.

A checkpoint is the folder checkpoints/<step>/ of a run: Orbax's items `state`, `data` (the data's position), `config`
and perhaps `metric`, and the digests of all their files, so that a damaged one is known before it is used. All
processes of a run write and read their parts of it; process 0 alone makes, renames and deletes folders.
"""

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from diffusion_jax.training import together
from diffusion_jax.training.checkpoint_files import (
    UNFINISHED,
    check_files,
    first_line,
    newest_whole,
    seal,
    steps_in,
    stored_shapes,
    unreadable,
)
from diffusion_jax.training.quiet import quiet_orbax
from diffusion_jax.training.retention import METRIC, Retention, read_metrics
from diffusion_jax.training.state import TrainState


class Checkpoints(NamedTuple):
    """The checkpoints of one run, kept in `folder`/<step>/; metrics are those of them that were judged, by step."""

    folder: Path
    manager: ocp.CheckpointManager
    metrics: dict[int, float]


def open_checkpoints(
    run: Path, keep: int = 2, keep_every: int = 0, keep_best: int = 0, patience: int = 600
) -> Checkpoints:
    """Open the checkpoints of a run folder, whose lock is held, and clear away what a killed process left half-written.

    The newest `keep` stay, those whose step divides by keep_every (0: none), and the keep_best of lowest metric.
    patience: seconds that writing one may take. Where one process of several cannot write its part, the others wait for
    it that long, and then none of them has a checkpoint more.
    """
    quiet_orbax()
    folder = Path(run).resolve() / "checkpoints"
    with together.all_or_none():
        for left in folder.glob(UNFINISHED) if together.first() else ():
            shutil.rmtree(left)

    def sealed():  # Orbax calls this in process 0 when all is written, before the folder gets its final name
        for path in folder.glob(UNFINISHED):
            seal(path)

    metrics = read_metrics(folder, steps_in(folder))
    options = ocp.CheckpointManagerOptions(
        preservation_policy=Retention(keep, keep_every, keep_best, metrics),
        create=True,
        async_options=ocp.AsyncOptions(timeout_secs=patience, post_finalization_callback=sealed),
    )
    return Checkpoints(folder, ocp.CheckpointManager(folder, options=options), metrics)


def save(checkpoints: Checkpoints, state: TrainState, data: dict, config: dict, metric: float | None = None) -> None:
    """Write a state, the data's position and the config in the background; nothing if that step is there already.

    metric: what the state is judged by, the lower the better; without one it is never among the best.
    Raises OSError when this one, or the one before, cannot be written; see `finish`.
    """
    step = int(state.step)
    items = dict(
        state=ocp.args.StandardSave(state._asdict()),
        data=ocp.args.JsonSave(data),
        config=ocp.args.JsonSave(config),
    )
    if metric is not None:
        items[METRIC] = ocp.args.JsonSave({"value": float(metric)})
    finish(checkpoints)
    if not together.number_of_first(step in steps_in(checkpoints.folder)):
        checkpoints.metrics.pop(step, None)
        checkpoints.metrics.update({} if metric is None else {step: float(metric)})
        with one_line(checkpoints):
            checkpoints.manager.save(step, args=ocp.args.Composite(**items), force=True)


def finish(checkpoints: Checkpoints) -> None:
    """Wait until what is being written is whole. Raises OSError where it cannot be, as on a full disk."""
    with one_line(checkpoints):
        checkpoints.manager.wait_until_finished()


def close(checkpoints: Checkpoints) -> None:
    """Stop the threads that write. After an error this raises no second one: what is half-written stays unfinished."""
    with contextlib.suppress(Exception):
        checkpoints.manager.close()


def restore(
    checkpoints: Checkpoints, like: TrainState, say: Callable[[str], None] = print
) -> tuple[TrainState, dict] | None:
    """The newest whole state and the data's position, laid out as `like` (arrays or shapes with shardings), or None.

    like may be laid out otherwise, and on other devices of other processes, than what was saved. A damaged checkpoint
    is left aside for the one before, in all processes, and `say` told so in a line; see `newest_whole`.
    Raises ValueError where checkpoints are there and none is whole, or where the newest is not of this model.
    """
    step = newest_whole(checkpoints.folder, say)
    if step is None:
        return None
    checkpoints.manager.reload()
    path = checkpoints.folder / str(step)
    items = ocp.args.Composite(state=ocp.args.StandardRestore(like._asdict()), data=ocp.args.JsonRestore())
    with unreadable(path):
        stored = stored_shapes(path)
    check_shapes(stored["params"], like.params, f"checkpoint {path}")
    with unreadable(path, "its files are whole, so it is of another optimizer, or of another version of this package"):
        restored = checkpoints.manager.restore(step, args=items)
    return TrainState(**restored["state"]), restored["data"]


def load_params(run: str | Path) -> tuple[PyTree[np.ndarray], int]:
    """The EMA parameters of a run's newest checkpoint, as numpy arrays, and its step; on any kind of devices.

    Raises FileNotFoundError where there is no checkpoint, ValueError where it is damaged.
    """
    quiet_orbax()
    folder = Path(run).resolve() / "checkpoints"
    steps = steps_in(folder)
    if not steps:
        raise FileNotFoundError(f"{run} holds no checkpoint: train it first, or give the folder of another run")
    path = folder / str(max(steps))
    with unreadable(path, "delete that folder to use the one before"), ocp.PyTreeCheckpointer() as reader:
        check_files(path)
        wanted = {"ema_params": jax.tree.map(lambda _: 0, stored_shapes(path)["ema_params"])}
        to_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type="np.ndarray"), wanted)
        items = ocp.args.PyTreeRestore(wanted, restore_args=to_numpy, partial_restore=True)
        return reader.restore(path / "state", args=items)["ema_params"], max(steps)


def check_shapes(found: PyTree, expected: PyTree, title: str, wanted_by: str = "its config") -> None:
    """Raise ValueError, naming the first leaf that differs, unless two trees have leaves of the same shapes.

    title, wanted_by: what holds the parameters that were found, and what the expected ones are of.
    """
    there, wanted = (
        {jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape) for path, leaf in leaves}
        for leaves in map(jax.tree_util.tree_leaves_with_path, (found, expected))
    )
    wrong = sorted(name for name in there.keys() | wanted.keys() if there.get(name) != wanted.get(name))
    if wrong:
        raise ValueError(
            f"{title} does not hold the parameters of {wanted_by}: {len(wrong)} differ, first {wrong[0]}, "
            f"which is {there.get(wrong[0], 'missing')} and should be {wanted.get(wrong[0], 'absent')}"
        )


@contextlib.contextmanager
def one_line(checkpoints: Checkpoints):
    """Turns any error into an OSError of one line that says what is left."""
    try:
        yield
    except Exception as error:
        folder = checkpoints.folder
        raise OSError(f"a checkpoint could not be written to {folder}: {first_line(error)}") from None
