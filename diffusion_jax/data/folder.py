"""A folder of pictures with captions, as people keep them.

Either a metadata.jsonl beside the pictures (Hugging Face's imagefolder: one {"file_name": ..., "text": ...} a line),
or pictures anywhere below the folder, each with a text file of the same name (cat.jpg and cat.txt: one caption a line).
"""

import functools
import json
from pathlib import Path

from absl import logging

from diffusion_jax.data.broken import BrokenData
from diffusion_jax.data.examples import Example, Indexed, Source
from diffusion_jax.data.splits import check_held_out, check_split, names_of
from diffusion_jax.data.transforms import decode

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
TEXT_COLUMNS = ("text", "caption", "captions")


def folder(path: str | Path, split: str, held_out: float = 0.05) -> Source:
    """The captioned pictures of a folder; about the fraction held_out of them, chosen by file name, are "validation".

    When the folder has subfolders named train and validation, these are the splits instead. Pictures without a caption
    are left out and their number is logged. Example ids are paths relative to the folder.

    Raises FileNotFoundError when there is no such folder or a listed picture is missing; ValueError when nothing in
    the folder has a caption, a line of metadata.jsonl is not as above, or names a file outside. Reading an example
    raises BrokenData, with its file, when the picture is broken, and FileNotFoundError when it is gone.
    """
    check_split(split)
    check_held_out(held_out)
    root = Path(path)
    if not root.is_dir():
        raise FileNotFoundError(f"There is no folder {root}: give the folder that holds your pictures and captions.")
    if (root / "train").is_dir() and (root / "validation").is_dir():
        root, held_out = root / split, None
    captions = _from_metadata(root) if (root / "metadata.jsonl").exists() else _from_text_files(root)
    captioned = {name: texts for name, texts in captions.items() if texts}
    if not captioned:
        raise ValueError(f'{root} has no captioned pictures: write metadata.jsonl lines with "file_name" and "text".')
    if bare := len(captions) - len(captioned):
        _warn_once(f"{bare} of {len(captions)} pictures in {root} have no caption and are left out.")
    names = sorted(captioned) if held_out is None else names_of(sorted(captioned), split, held_out)
    rows = [(name, captioned[name]) for name in names]
    return Indexed(len(names), functools.partial(_read, root, rows), functools.partial(_captions, rows))


@functools.cache  # a run opens the folder three times
def _warn_once(message: str) -> None:
    logging.warning("%s", message)


def _read(root: Path, rows: list, index: int) -> Example:
    name, captions = rows[index]
    try:
        return {"image": decode((root / name).read_bytes()), "captions": captions, "id": name}
    except ValueError as error:
        raise BrokenData(f"{root / name}: {error} Replace or remove it.") from None


def _captions(rows: list, index: int) -> tuple[str, ...]:
    return rows[index][1]


def _from_metadata(root: Path) -> dict[str, tuple[str, ...]]:
    captions, inside = {}, root.resolve()
    with open(root / "metadata.jsonl", "rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"{root / 'metadata.jsonl'} line {number}"
            row = _row(line, where)
            file = (root / row["file_name"]).resolve()
            if not file.is_relative_to(inside):
                raise ValueError(f"{where} names a file outside the folder: {row['file_name'][:80]!r}.")
            if not file.is_file():
                raise FileNotFoundError(f"{where} names a picture that is not there: {row['file_name'][:80]!r}.")
            texts = next((row[column] for column in TEXT_COLUMNS if row.get(column)), ())
            captions[row["file_name"]] = clean(texts)
    return captions


def _row(line: bytes, where: str) -> dict:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):  # ValueError is the mother of JSON's and UTF-8's errors
        raise ValueError(f"{where} is not JSON in UTF-8: {line[:60]!r}.") from None
    if not isinstance(row, dict) or not isinstance(row.get("file_name"), str) or "\0" in row["file_name"]:
        raise ValueError(f'{where} has no "file_name".')
    return row


def _from_text_files(root: Path) -> dict[str, tuple[str, ...]]:
    captions, inside = {}, root.resolve()
    for file in sorted(root.rglob("*")):
        if file.suffix.lower() in PICTURES and file.resolve().is_relative_to(inside):
            texts = file.with_suffix(".txt")
            try:
                lines = texts.read_text("utf-8").splitlines() if texts.is_file() else ()
            except UnicodeDecodeError:
                raise ValueError(f"{texts} is not valid UTF-8: save it as UTF-8.") from None
            captions[file.relative_to(root).as_posix()] = clean(lines)
    return captions


def clean(texts: object) -> tuple[str, ...]:
    """A caption or a list of them as a tuple, without surrounding space, empty ones and what is not valid text."""
    texts = [texts] if isinstance(texts, str) else texts if isinstance(texts, list | tuple) else ()
    stripped = (text.strip() for text in texts if isinstance(text, str))
    return tuple(dict.fromkeys(text for text in stripped if text and _is_unicode(text)))


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate: JSON can spell it
        return False
    return True
