"""What the workers have in common: an operation's name comes in on a line, the seconds that it took go out."""

import json
import platform
import sys
import time
from collections.abc import Callable


def serve(operations: dict[str, Callable], versions: str, **figures) -> None:
    """Run and time what standard input names, until it ends. The first line says what runs here."""
    for operation in operations.values():
        operation()  # compiles, and warms caches
    print(json.dumps({"versions": f"Python {platform.python_version()}, {versions}", **figures}), flush=True)
    for line in sys.stdin:
        begun = time.perf_counter()
        operations[line.strip()]()
        print(time.perf_counter() - begun, flush=True)
