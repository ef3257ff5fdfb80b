"""One training in several processes: how they find each other. What they tell one another is `together`'s.

A process joins a group when its environment says so:

    JAX_COORDINATOR_ADDRESS=host:port, JAX_NUM_PROCESSES=N and JAX_PROCESS_ID=i     launch/local, Kubernetes
    DIFFUSION_JAX_CLUSTER=slurm or tpu                                              JAX asks the cluster for the rest

DIFFUSION_JAX_JOIN_TIMEOUT: seconds to wait for the others, 300 unless set. DIFFUSION_JAX_HEARTBEAT_TIMEOUT: seconds
after which JAX takes a silent process for lost, and ends the others; 100 unless set.
"""

import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import jax

from diffusion_jax.files import write_json
from diffusion_jax.training import together
from diffusion_jax.training.leaving import AGAIN

STATUS = re.compile("(CANCELLED|UNKNOWN|DEADLINE_EXCEEDED|ABORTED|INTERNAL|UNAVAILABLE|FAILED_PRECONDITION): ")
FRESH = 15.0  # seconds: a process that waits says so more often than this


class Lost(OSError):
    """A process that never came, or is gone: `diffusion-jax` leaves with AGAIN."""

    exit_code = AGAIN


class Group(NamedTuple):
    """What the environment says of a group; cluster is None where it says everything, and the numbers where it asks."""

    count: int | None
    number: int | None
    address: str | None
    cluster: str | None


def group() -> Group | None:
    """The group that the environment speaks of, or None. Raises ValueError where it says half of it, or nonsense."""
    names = ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID", "JAX_COORDINATOR_ADDRESS")
    told = [os.environ.get(name) or None for name in names]
    cluster = os.environ.get("DIFFUSION_JAX_CLUSTER") or None
    if cluster is not None:
        if cluster not in ("slurm", "tpu"):
            raise ValueError(f"DIFFUSION_JAX_CLUSTER is {cluster!r}: it is slurm or tpu, or not set")
        if cluster == "slurm":
            count, number = os.environ.get("SLURM_NTASKS"), os.environ.get("SLURM_PROCID")
            if count is None or number is None:
                raise ValueError("DIFFUSION_JAX_CLUSTER is slurm, but SLURM_PROCID is not set: start it with srun")
            return Group(int(count), int(number), None, cluster)
        return Group(None, None, None, cluster)
    if told == [None] * 3:
        return None
    if None in told:
        missing = ", ".join(name for name, value in zip(names, told, strict=True) if value is None)
        raise ValueError(
            f"this process is half in a group: {missing} is not set beside the other of {', '.join(names)}"
        )
    try:
        count, number = int(told[0]), int(told[1])
    except ValueError:
        raise ValueError(f"JAX_NUM_PROCESSES={told[0]} and JAX_PROCESS_ID={told[1]} have to be numbers") from None
    if not 0 <= number < count:
        raise ValueError(f"JAX_PROCESS_ID={number} is none of 0 to {count - 1}, as JAX_NUM_PROCESSES={count} has them")
    return Group(count, number, told[2], None)


def join(workdir: str | os.PathLike) -> None:
    """Join the group that the environment speaks of, if any; nothing may have used a device before.

    workdir: the folder of the run, which all processes share. They meet there before they meet by network, so that
    those which came can say who did not.
    Raises ValueError for an environment that makes no sense, Lost where processes do not come in time.
    """
    if (found := group()) is None or found.count == 1:
        return
    timeout = _seconds("DIFFUSION_JAX_JOIN_TIMEOUT", 300)
    silence = _seconds("DIFFUSION_JAX_HEARTBEAT_TIMEOUT", 100)
    jax.config.update("jax_enable_preemption_service", True)
    begun = time.monotonic()
    with present(Path(workdir) / "processes", found) as absent:
        while missing := absent():
            if time.monotonic() - begun > timeout:
                raise Lost(
                    f"of {found.count} processes, {len(missing)} did not come within {timeout} s: "
                    f"{', '.join(missing)}; look at their output, or raise DIFFUSION_JAX_JOIN_TIMEOUT"
                )
            time.sleep(0.05)
        jax.distributed.initialize(
            found.address,
            found.count,
            found.number,
            initialization_timeout=timeout,
            heartbeat_timeout_seconds=silence,
            **({"cluster_detection_method": "slurm"} if found.cluster == "slurm" else {}),
        )


@contextmanager
def present(folder: Path, found: Group) -> Iterator[Callable[[], list[str]]]:
    """Within it this process is in the roll, as FOLDER/<number>.json; yields () -> who is not, and where it was last.

    Times are compared as the file system has them, so that clocks of hosts need not agree.
    """
    if found.count is None:  # a cluster that only JAX can ask
        yield list
        return
    mine, over = folder / f"{found.number}.json", threading.Event()
    write_json(mine, {"host": socket.gethostname(), "pid": os.getpid()})

    def stay():
        while not over.wait(FRESH / 5):
            os.utime(mine)

    def absent() -> list[str]:
        os.utime(mine)
        now, missing = mine.stat().st_mtime, []
        for number in range(found.count):
            path = folder / f"{number}.json"
            try:
                seen = path.stat().st_mtime
            except FileNotFoundError:
                missing.append(f"process {number}")
            else:
                if now - seen > FRESH:
                    missing.append(f"process {number} (last time on {_host(path)})")
        return missing

    thread = threading.Thread(target=stay, daemon=True)
    thread.start()
    try:
        yield absent
    finally:
        over.set()
        thread.join()
    # All have come: one that starts again at once shall not take this one for there. One that gives up is there for the
    # others a little longer, so that all name the same.
    past = mine.stat().st_mtime - 2 * FRESH
    os.utime(mine, (past, past))


def _host(path: Path) -> str:
    try:
        return str(json.loads(path.read_text())["host"])
    except (OSError, ValueError, KeyError):
        return "an unknown host"


def _seconds(name: str, default: int) -> int:
    told = os.environ.get(name) or default
    try:
        return int(told)
    except ValueError:
        raise ValueError(f"{name} is {told!r}: it is a number of seconds") from None


def lost(error: BaseException | None) -> bool:
    """Whether it comes of an exchange with other processes that failed: they are gone, or do not answer."""
    if jax.process_count() == 1:
        return False
    while error is not None:
        told = str(error)
        # a status of XLA's becomes a ValueError where jit dispatches the call itself
        of_xla = isinstance(error, jax.errors.JaxRuntimeError) or STATUS.match(told)
        if of_xla and "RESOURCE_EXHAUSTED" not in told:
            return True
        error = error.__cause__ or error.__context__
    return False


def say_nothing() -> None:
    """Silence the standard output of all processes but the first."""
    if not together.first():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (for the life of the process)
