"""States on disk: written beside the run while it goes on, complete or not there at all."""

import fcntl
import json
from pathlib import Path
from typing import NamedTuple

import jax
import orbax.checkpoint as ocp

from diffusion_jax.training.state import TrainState
from diffusion_jax.types import Params


class Checkpoints(NamedTuple):
    """The checkpoints of one run, kept in `folder`/<step>/."""

    folder: Path
    manager: ocp.CheckpointManager


def open_checkpoints(run: Path, keep: int = 2, keep_every: int | None = None) -> Checkpoints:
    """Open the checkpoints of a run folder; the newest `keep` stay, and those whose step divides by keep_every."""
    folder = Path(run).resolve() / "checkpoints"
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, keep_period=keep_every, create=True)
    return Checkpoints(folder, ocp.CheckpointManager(folder, options=options))


def save(checkpoints: Checkpoints, state: TrainState, data: dict, wait: bool = False) -> None:
    """Write a state and the data's position in the background; a half-written one is never taken for whole.

    Raises OSError when the disk is full, here or at the next call, since writing goes on in the background.
    """
    step = int(state.step)
    arguments = ocp.args.Composite(state=ocp.args.StandardSave(state._asdict()), data=ocp.args.JsonSave(data))
    try:
        if step not in checkpoints.manager.all_steps():
            checkpoints.manager.save(step, args=arguments, force=True)
        if wait:
            checkpoints.manager.wait_until_finished()
    except Exception as error:
        raise OSError(f"checkpoint {step} could not be written to {checkpoints.folder}: {first_line(error)}") from error


def restore(checkpoints: Checkpoints, like: TrainState) -> tuple[TrainState, dict] | None:
    """The newest state and the data's position, laid out as `like` (arrays or shapes with shardings), or None.

    Raises ValueError for a checkpoint that is damaged, or that is not of this model.
    """
    step = checkpoints.manager.latest_step()
    if step is None:
        return None
    arguments = ocp.args.Composite(state=ocp.args.StandardRestore(like._asdict()), data=ocp.args.JsonRestore())
    try:
        restored = checkpoints.manager.restore(step, args=arguments)
    except Exception as error:
        raise ValueError(unreadable(checkpoints.folder / str(step), error)) from error
    return TrainState(**restored["state"]), restored["data"]


def load_params(run: Path) -> tuple[Params, int]:
    """The EMA parameters of a run's newest checkpoint, as numpy arrays, and its step.

    Raises FileNotFoundError where there is no checkpoint, ValueError where it is damaged.
    """
    folder = Path(run).resolve() / "checkpoints"
    step = ocp.utils.checkpoint_steps(folder) if folder.is_dir() else []
    if not step:
        raise FileNotFoundError(f"{run} holds no checkpoint: train it first, or give the folder of another run")
    path = folder / str(max(step)) / "state"
    try:
        with ocp.PyTreeCheckpointer() as reader:
            tree = reader.metadata(path).item_metadata.tree
            wanted = {"ema_params": jax.tree.map(lambda _: 0, tree["ema_params"])}
            to_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type="np.ndarray"), wanted)
            restored = reader.restore(
                path, args=ocp.args.PyTreeRestore(wanted, restore_args=to_numpy, partial_restore=True)
            )
    except Exception as error:
        raise ValueError(unreadable(path.parent, error)) from error
    return restored["ema_params"], max(step)


def lock(run: Path):
    """Hold the run folder until this process ends, however it ends. Raises OSError if another one trains in it."""
    file = open(Path(run) / "lock", "w")  # noqa: SIM115  (held open: the kernel drops the lock with the process)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OSError(f"another process trains in {run}: wait for it, or choose another --workdir") from None
    return file


def unreadable(path: Path, error: Exception) -> str:
    """One line for a checkpoint that cannot be read."""
    return f"checkpoint {path} cannot be read ({first_line(error)}): delete that folder to go on from the one before"


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its type where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def read_config(run: Path) -> dict:
    """The config of a run folder. Raises FileNotFoundError where there is none, ValueError where it is damaged."""
    path = Path(run) / "config.json"
    if not path.exists():
        raise FileNotFoundError(f"{run} is no run folder: it holds no config.json")
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
