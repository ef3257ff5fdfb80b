"""Files that are written whole or not at all."""

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def write_whole(path: str | Path, write: Callable) -> None:
    """Calls write(file) on a file beside the path, then gives it the path's name: readers never see half of it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            write(file)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | Path, content) -> None:
    """Writes a file of indented JSON, in UTF-8."""
    text = json.dumps(content, indent=2) + "\n"
    write_whole(path, lambda file: file.write(text.encode()))


@contextmanager
def written_together(folder: str | Path) -> Iterator[Path]:
    """A temporary folder whose files move into `folder` once all are written; after an exception none of them does."""
    folder = Path(folder)
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=".", dir=folder) as beside:  # inside: moving is renaming there
            yield Path(beside)
            for file in sorted(Path(beside).iterdir()):
                file.replace(folder / file.name)
    except BaseException:
        if new:
            with suppress(OSError):
                folder.rmdir()
        raise
