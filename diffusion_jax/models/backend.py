"""Which kind of device a network is traced for."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import jax

_chosen: ContextVar[str | None] = ContextVar("backend", default=None)


def backend() -> str:
    """ "cpu", "gpu" or "tpu": what was chosen around, else what this process computes on."""
    return _chosen.get() or jax.default_backend()


@contextmanager
def traced_for(name: str) -> Iterator[None]:
    """Within it, networks are traced as for another kind of device: to count or to lower, not to run.

    A function that JAX has traced before is not traced again: trace one that is new.
    """
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)
