"""What the processes of a run tell one another before they go on; of a run of one process, nothing.

Each of these is called by all processes, in the same order, from the main thread: they are collective.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import jax
import numpy as np
from jax.experimental import multihost_utils

LENGTH = 1000  # bytes of a line


def first() -> bool:
    """Whether this is process 0, which alone makes, renames and deletes folders."""
    return jax.process_index() == 0


def number_of_first(number: int) -> int:
    """The number, an int32, that process 0 has."""
    return int(_of_all(np.array(number, np.int32))[0])


def lines_of_all(line: str) -> list[str]:
    """The line of each process, cut to LENGTH bytes of UTF-8."""
    padded = line.encode()[:LENGTH].ljust(LENGTH, b"\0")
    rows = _of_all(np.frombuffer(padded, np.uint8))
    return [row.tobytes().rstrip(b"\0").decode(errors="ignore") for row in rows]


@contextmanager
def all_or_none() -> Iterator[None]:
    """What one process cannot do in it, ends them all: none waits for one that has left.

    Raises what this process met, or else the OSError or ValueError that another did, which says what that one said.
    """
    found = None
    try:
        yield
    except Exception as error:
        found = error
    told = "" if found is None else f"{'OSError' if isinstance(found, OSError) else 'ValueError'} {found}"
    theirs = next((line for line in lines_of_all(told) if line), "")
    if found is not None:
        raise found
    if theirs:
        kind, _, line = theirs.partition(" ")
        raise (OSError if kind == "OSError" else ValueError)(line)


def _of_all(array: np.ndarray) -> np.ndarray:
    """The array of each process, along a new first axis."""
    if jax.process_count() == 1:
        return array[None]
    return np.asarray(multihost_utils.process_allgather(array))
