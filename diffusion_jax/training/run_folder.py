"""The folder of a run: held by one training at a time, and described by its config."""

import fcntl
import json
from pathlib import Path


def lock(run: Path):
    """Hold the run folder until this file is closed or the process ends, however it ends.

    Raises OSError if another process trains there.
    """
    file = open(Path(run) / "lock", "w")  # noqa: SIM115  (held open: the kernel drops the lock with the process)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise OSError(f"another process trains in {run}: wait for it, or choose another --workdir") from None
    return file


def read_config(run: Path) -> dict:
    """The config of a run folder. Raises FileNotFoundError where there is none, ValueError where it is damaged."""
    path = Path(run) / "config.json"
    if not path.exists():
        raise FileNotFoundError(f"{run} is no run folder: it holds no config.json")
    try:
        config = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} is damaged: it holds no config")
    return config
