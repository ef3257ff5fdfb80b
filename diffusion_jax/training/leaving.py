"""Leaving when asked to: after a step, at the same one in all processes, with everything saved."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import jax
from jax.experimental import multihost_utils

AGAIN = 75  # the exit code of what starting again mends (EX_TEMPFAIL of sysexits.h)


class Leaving(NamedTuple):
    """asked: (step) -> whether to leave before it, the same answer in all processes. code: () -> the exit code then."""

    asked: Callable[[int], bool]
    code: Callable[[], int]


@contextmanager
def leaving_politely() -> Iterator[Leaving]:
    """Within it, SIGTERM and the first Ctrl-C only make `asked` say yes; a second Ctrl-C interrupts as usual.

    Of several processes, JAX's preemption service hears a SIGTERM to any, and names a step that none has reached.
    """
    received: list[int] = []
    together = jax.process_count() > 1

    def notice(number, _):
        if number == signal.SIGINT and number in received:
            raise KeyboardInterrupt
        received.append(number)
        if together:
            os.kill(os.getpid(), signal.SIGTERM)

    def asked(step: int) -> bool:
        return multihost_utils.reached_preemption_sync_point(step) if together else bool(received)

    heard = (signal.SIGINT,) if together else (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, notice) for number in heard}
    try:
        yield Leaving(asked, lambda: 128 + (received[0] if received else signal.SIGTERM))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
