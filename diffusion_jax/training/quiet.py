"""Orbax says what goes wrong in hundreds of lines; here it is kept from the terminal."""

import functools
import logging
import sys


@functools.cache
def quiet_orbax() -> None:
    """Keep Orbax from the terminal: what goes wrong is raised, and then said in one line, not in hundreds."""
    logging.getLogger("absl").addFilter(not_of_orbax)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # mourns every array that a full disk had no room for
    before = sys.unraisablehook

    def hook(unraisable):
        if str(unraisable.exc_value) != "Event loop is closed":  # from arrays that were still being written
            before(unraisable)

    sys.unraisablehook = hook


def not_of_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in record.pathname
