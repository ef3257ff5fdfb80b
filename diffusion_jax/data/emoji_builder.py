"""The emoji data set as a tensorflow-datasets builder that needs no TensorFlow: drawings in, array_record out.

tensorflow-datasets writes into a folder named `incomplete.*` and renames it when everything is written, licenses and
counts included, so a folder of the final name is a whole data set.
"""

import hashlib
import json
import multiprocessing
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import tensorflow_datasets as tfds
from tqdm import tqdm

from diffusion_jax.data.drawings import SIZE, png, raster
from diffusion_jax.data.emoji_packages import PERMISSIVE, RECIPES, Recipe, Words
from diffusion_jax.data.splits import split_of

VERSION = "1.0.0"
HELD_OUT = 0.05  # of the concepts; names are drawn by hash, so the share comes out near this


class Picture(NamedTuple):
    """One drawing before it is drawn."""

    concept: str
    style: str
    drawing: bytes


class Contents(NamedTuple):
    """All that the builder writes down. Of pictures that look the same, the first is kept."""

    recipe: Recipe
    words: dict[str, Words]
    pictures: Sequence[Picture]


def held_out(concept: str) -> bool:
    """Whether a concept, in all its styles, is kept from training."""
    return split_of(concept, HELD_OUT) == "validation"


def rendered(picture: Picture) -> bytes:
    """PNG bytes of a drawing."""
    try:
        return png(raster(picture.drawing))
    except ValueError as error:
        raise ValueError(f"emoji {picture.concept} in style {picture.style}: {error}") from error


@contextmanager
def mapper(workers: int) -> Iterator[Callable]:
    """A `map`, in order, over `workers` processes (the renderer holds the interpreter's lock: threads gain nothing)."""
    if workers <= 1:
        yield map
        return
    spawn = multiprocessing.get_context("spawn")  # a fork of a process with JAX in it may hang
    pool = ProcessPoolExecutor(workers, mp_context=spawn, initializer=_die_with_parent)
    try:
        yield lambda function, items: pool.map(function, items, chunksize=16)
    finally:
        pool.shutdown(cancel_futures=True)


def _die_with_parent() -> None:
    """End this process when the one that started it is gone: kill -9 leaves nothing running."""

    def wait():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def unique(pictures: Sequence[Picture], workers: int) -> Iterator[tuple[Picture, bytes]]:
    """Yield each picture with its PNG bytes, without those whose pixels an earlier one has."""
    seen = set()
    with mapper(workers) as map_:
        pairs = zip(pictures, map_(rendered, pictures), strict=True)
        for picture, image in tqdm(pairs, "drawing emoji", len(pictures), unit=" pictures", mininterval=1):
            fingerprint = hashlib.sha256(image).digest()
            if fingerprint not in seen:
                seen.add(fingerprint)
                yield picture, image


def counts(kept: Sequence[Picture], drawn: int) -> dict:
    """What the data set holds, as the report and the card state it."""
    styles = Counter(picture.style for picture in kept)
    concepts = Counter(picture.concept for picture in kept)
    return {
        "pairs": len(kept),
        "concepts": len(concepts),
        "concepts_in_all_styles": sum(count == len(styles) for count in concepts.values()),
        "permissive_pairs": sum(styles[style] for style in PERMISSIVE),
        "held_out_concepts": sum(map(held_out, concepts)),
        "held_out_pairs": sum(held_out(picture.concept) for picture in kept),
        "duplicates_dropped": drawn - len(kept),
        "styles": dict(styles),
    }


def licenses(recipe: Recipe) -> str:
    """The text that lies beside the data: who drew what, under which license."""
    lines = ["# Whose pictures these are", "", "Rasterized on white and joined with captions, otherwise unchanged.", ""]
    for name, style in recipe.styles.items():
        package = f"{style.archive.package} {style.archive.version} ({style.archive.client})"
        lines.append(f"- style `{name}`: {style.license}. {style.authors}. Package {package}.")
    return "\n".join([*lines, f"- labels and tags: {recipe.labels_credit}.", ""])


class Emoji(tfds.core.GeneratorBasedBuilder):
    """Emoji in up to six graphic styles with their names, split by concept."""

    VERSION = tfds.core.Version(VERSION)
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in RECIPES]  # noqa: RUF012 (tfds wants a list)
    code_path = (
        None  # where tfds would look for download checksums; finding it needs a package that tfds does not declare
    )

    def __init__(self, *, contents: Contents | None = None, workers: int = 1, **kwargs):
        self.contents, self.workers = contents, workers
        super().__init__(file_format="array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text()
        features = {
            "image": tfds.features.Image(shape=(SIZE, SIZE, 3), encoding_format="png"),
            "tags": tfds.features.Sequence(text),
            **dict.fromkeys(("label", "group", "subgroup", "style", "concept", "license"), text),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="Emoji with captions, from the packages named in LICENSES.md.",
            features=tfds.features.FeaturesDict(features),
            license="Each style has its own: see LICENSES.md.",
        )

    def _split_generators(self, dl_manager) -> dict:
        recipe, _, pictures = self.contents
        drawn = list(unique(pictures, self.workers))
        kept = [picture for picture, _ in drawn]
        folder = Path(self.data_path)  # the one named incomplete.*
        (folder / "LICENSES.md").write_text(licenses(recipe))
        (folder / "counts.json").write_text(json.dumps(counts(kept, len(pictures)), indent=2) + "\n")
        return {
            "train": self._generate_examples(pair for pair in drawn if not held_out(pair[0].concept)),
            "validation": self._generate_examples(pair for pair in drawn if held_out(pair[0].concept)),
        }

    def _generate_examples(self, drawn: Iterable[tuple[Picture, bytes]]) -> Iterator[tuple[str, dict]]:
        recipe, words, _ = self.contents
        for picture, image in drawn:
            about = words[picture.concept]._asdict() | {"style": picture.style, "concept": picture.concept}
            about["license"] = recipe.styles[picture.style].license
            yield f"{picture.concept}/{picture.style}", about | {"image": image, "tags": list(about["tags"])}
