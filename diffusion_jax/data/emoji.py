"""Emoji: real pictures with real captions in six graphic styles, fetched and drawn once, then read.

build("data")                          # fetch, check, draw, write: a minute or two
emoji("train", styles=("noto",))       # a sequence of examples
"""

import fcntl
import importlib.util
import io
import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from tqdm import tqdm

from diffusion_jax.data import archives
from diffusion_jax.data.broken import reading
from diffusion_jax.data.emoji_builder import VERSION, Contents, Emoji, Picture
from diffusion_jax.data.emoji_packages import NAMED_BY, RECIPES, Recipe, drawings
from diffusion_jax.data.examples import Example, Indexed, Source
from diffusion_jax.data.splits import check_split

COMMAND = "diffusion-jax data build emoji"
TEXTS = ("label", "group", "subgroup", "style", "concept", "license")


def build(
    data_dir: str | Path = "data",
    *,
    recipe: str | None = None,
    workers: int | None = None,
    say: Callable[[str], None] = tqdm.write,
) -> dict:
    """Fetch, check, draw and write the emoji data set below `data_dir`; keep it if it is there and whole.

    Archives are kept in `data_dir`/downloads. A build that was killed leaves nothing that looks complete, and calling
    again finishes it. Two builds at once wait for each other.

    Args:
        data_dir: the data set appears in emoji/<recipe>/<version> below.
        recipe: "six_styles" or "openmoji" (one style, from PyPI alone); None means the first unless there is no npm.
        workers: processes that draw; None means one for each core.
        say: is told what happens, a line at a time.

    Returns:
        The counts, as counts.json beside the data has them.

    Raises:
        FetchError: a package could not be had, or its digest is wrong.
        ValueError: an unknown recipe, or an archive that cannot be read safely.
    """
    if recipe is None and archives.npm_command() is None and not folder_of(data_dir, "six_styles").exists():
        recipe = "openmoji"
        say("No npm here, so emoji come from PyPI: ONE style (openmoji) instead of six, no groups, fewer tags.")
        say("For all six: pip install 'diffusion_jax[emoji]' (it brings an npm), then the same command again.")
    recipe = recipe or "six_styles"
    if recipe not in RECIPES:
        raise ValueError(f"no emoji recipe {recipe!r}: there are {', '.join(RECIPES)}.")
    folder = folder_of(data_dir, recipe)
    with _alone(Path(data_dir), say):
        if folder.exists() and not _whole(folder):
            say(f"{folder} is damaged: building it again.")
            shutil.rmtree(folder)
        if not folder.exists():
            if importlib.util.find_spec("resvg_py") is None:
                raise archives.FetchError("drawing emoji needs resvg-py: pip install 'diffusion_jax[emoji]'.")
            contents = gather(RECIPES[recipe], Path(data_dir) / "downloads")
            workers = workers or os.cpu_count() or 1
            builder = Emoji(data_dir=str(data_dir), config=recipe, contents=contents, workers=workers)
            builder.download_and_prepare()
    return json.loads((folder / "counts.json").read_text())


def folder_of(data_dir: str | Path, recipe: str) -> Path:
    """Where tensorflow-datasets keeps the data set that was built by a recipe."""
    return Path(data_dir) / "emoji" / recipe / VERSION


def gather(recipe: Recipe, downloads: Path) -> Contents:
    """Fetch a recipe's archives and find in them the drawing of each concept in each style."""
    wanted = {"": recipe.labels} | {name: style.archive for name, style in recipe.styles.items()}
    paths = {}
    with tqdm(wanted.items(), "fetching packages", unit=" packages") as bar:
        for name, archive in bar:
            bar.set_postfix_str(archive.package)
            try:
                paths[name] = archives.fetch(archive, downloads)
            except archives.FetchError as error:
                hint = (
                    " One style can be had from PyPI alone, by the recipe openmoji." if archive.client == "npm" else ""
                )
                raise archives.FetchError(f"{error}{hint}") from error
    words = recipe.read_words(paths[""])
    pictures = []
    # Norway's flag is Bouvet Island's too: of equal pictures the one with the shorter name comes first and is kept.
    plain_first = sorted(words, key=lambda concept: len(words[concept].label))
    for name, style in recipe.styles.items():
        found = {}
        for concept, drawing in drawings(style, paths[name], paths.get(NAMED_BY.get(name))):
            found.setdefault(concept, drawing)
        pictures += [Picture(concept, name, found[concept]) for concept in plain_first if concept in found]
    return Contents(recipe, words, pictures)


@contextmanager
def _alone(data_dir: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Keep other builds waiting, and clear away what a killed one left. The lock goes when its process goes."""
    folder = data_dir / "emoji"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"Another process is building in {folder}: waiting for it.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        for left in (*folder.glob("*/incomplete.*"), *(data_dir / "downloads").glob(f"{archives.FRESH}*")):
            shutil.rmtree(left, ignore_errors=True)
        yield


def _whole(folder: Path) -> bool:
    """Whether every record of both splits, and the counts, can be read."""
    try:
        sizes = [len(_read(folder, split)[1]) for split in ("train", "validation")]
        return sum(sizes) == json.loads((folder / "counts.json").read_text())["pairs"]
    except (ValueError, OSError, KeyError):
        return False


def emoji(
    split: str,
    data_dir: str | Path = "data",
    styles: Collection[str] | None = None,
    groups: Collection[str] | None = None,
    labels: Collection[str] | None = None,
) -> Source:
    """The built data set, or a part of it: uint8 pictures of 128x128 with captions, style and license.

    The captions are "red heart, noto style" (the main one), "red heart", and the tags in one line.

    Args:
        split: "train" or "validation": other concepts, in the same styles.
        data_dir: as for `build`.
        styles: keep these ("noto", "twemoji", "fluent-flat", "fluent", "fluent-3d", "openmoji"); None keeps all.
        groups: keep these (such as "food & drink"); None keeps all.
        labels: keep pictures whose label has one of these words or phrases, whole, in any case; None keeps all.

    Raises:
        FileNotFoundError: the data set is not built.
        ValueError: it is damaged, an argument is unknown, or no picture is left.
    """
    check_split(split)
    folder = next((path for path in (folder_of(data_dir, recipe) for recipe in RECIPES) if path.is_dir()), None)
    if folder is None:
        raise FileNotFoundError(f"no emoji data in {Path(data_dir) / 'emoji'}: run `{COMMAND}` first.")
    records, about, files = _read(folder, split)
    for name, choice in (("styles", styles), ("groups", groups), ("labels", labels)):
        if choice is not None and (isinstance(choice, str) or not choice):
            wrong = "not a list" if choice else "empty"
            raise ValueError(f"emoji {name}={choice!r} is {wrong}: give a list of {name}, or None for all.")
    for name, choice in (("style", styles), ("group", groups)):
        there = {example[name] for example in about}
        unknown = sorted(set(choice or ()) - there)
        if unknown:
            raise ValueError(f"no emoji {name} {', '.join(map(repr, unknown))}: there are {', '.join(sorted(there))}.")
    words = None if labels is None else _any_of(labels)
    chosen = [
        index
        for index, example in enumerate(about)
        if (styles is None or example["style"] in styles)
        and (groups is None or example["group"] in groups)
        and (words is None or words.search(example["label"]))
    ]
    if not chosen:
        there = f"the {len(about)} pictures of split {split!r} (such as {about[0]['label']!r})"
        raise ValueError(f"no emoji left by {styles=}, {groups=}, {labels=}: none of {there} has all that.")
    rows = [(index, about[index]) for index in chosen]
    return Indexed(len(chosen), partial(_example, records, files, rows), partial(_captions, rows))


def _any_of(phrases: Collection[str]) -> re.Pattern:
    """Finds any of the phrases as whole words."""
    either = "|".join(map(re.escape, phrases))
    return re.compile(rf"(?<!\w)(?:{either})(?!\w)", re.IGNORECASE)


def _read(folder: Path, split: str) -> tuple[Sequence, list[dict], list[tuple[str, int]]]:
    """All records of a split, pictures still encoded, what each says about its picture, and the files they lie in."""
    encoded = {"image": tfds.decode.SkipDecoding()}
    try:
        builder = tfds.builder_from_directory(str(folder))
        records = builder.as_data_source(split, decoders=encoded)
        about = [_about(record) for record in records.__getitems__(range(len(records)))]
    except (MemoryError, PermissionError):
        raise
    except Exception as error:  # tensorflow-datasets, protobuf and array_record each raise their own
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise ValueError(f"{folder} is damaged ({reason}): run `{COMMAND}` to build it again.") from error
    return records, about, [(part.filename, part.take) for part in builder.info.splits[split].file_instructions]


def _about(record: Mapping) -> dict:
    """The words of a record, and the captions that they give."""
    about = {name: record[name].decode() for name in TEXTS}
    style = about["style"].replace("-", " ")
    tags = ", ".join(tag.decode() for tag in record["tags"])
    captions = (f"{about['label']}, {style} style", about["label"], *([tags] if tags else []))
    return about | {"captions": captions, "id": f"emoji/{about['concept']}/{about['style']}"}


def _captions(chosen: Sequence[tuple[int, Mapping]], index: int) -> tuple[str, ...]:
    return chosen[index][1]["captions"]


def _example(records: Sequence, files: list, chosen: Sequence[tuple[int, Mapping]], index: int) -> Example:
    """The decoded example at a place of the selection."""
    record, about = chosen[index]
    with reading(files, record), Image.open(io.BytesIO(records[record]["image"]), formats=["PNG"]) as picture:
        return {"image": np.asarray(picture.convert("RGB")), **about}
