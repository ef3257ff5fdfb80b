"""Data sets by name, for people: build one, look at one, convert one."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diffusion_jax.data import emoji, sources, transforms, webdataset
from diffusion_jax.data.examples import Source
from diffusion_jax.evaluation import images

SIDE = 128  # pixels of a picture on a contact sheet


def build(name: str, data_dir: str, recipe: str | None = None) -> None:
    """Fetch and prepare a data set: "emoji", or the name of one of TensorFlow Datasets. Prints what is there then."""
    if name == "emoji":
        print(json.dumps(emoji.build(data_dir, recipe=recipe), indent=2))
    elif name == "shapes":
        print("shapes are drawn as they are needed: there is nothing to build")
    else:
        counts = {split: len(sources.tfds(name, split, data_dir)) for split in ("train", "validation")}
        print(json.dumps(counts, indent=2))


def open_source(name: str, split: str, data_dir: str) -> Source:
    """The source that a person means: emoji, shapes, a folder of pictures, a converted folder, or a TFDS name."""
    if name == "emoji":
        return sources.emoji(split, data_dir)
    if name == "shapes":
        return sources.shapes(split, size=64)
    if (Path(name) / webdataset.LISTING).is_file():
        return sources.array_record(name, split)
    if Path(name).is_dir():
        return sources.folder(name, split)
    if "/" in name and not (Path(data_dir) / name).exists() and not name.replace("/", "").isidentifier():
        raise FileNotFoundError(f"no folder {name}")
    return sources.tfds(name, split, data_dir)


def show(name: str, data_dir: str, split: str, count: int, seed: int, out: str | None) -> Path:
    """Write a contact sheet of `count` pictures with their captions, and print how many there are."""
    source = open_source(name, split, data_dir)
    chosen = np.random.default_rng(seed).permutation(len(source))[:count] if len(source) < 10**7 else range(count)
    examples = [source[int(index)] for index in chosen]
    pictures = np.stack([transforms.square(example["image"], SIDE, "pad") for example in examples])
    captions = [example["captions"][0] for example in examples]
    header = f"{name}, {split}: {len(examples)} of {len(source):,} examples, seed {seed}"
    path = Path(out or f"{Path(name).name}.png")
    images.write_png(path, images.grid(pictures, captions=captions, header=header))
    print(header)
    for example in examples[:3]:
        print(f"  {example['id']}: {' | '.join(example['captions'])}")
    print(f"look at {path}")
    return path


def convert(tars: Sequence[str], out: str, held_out: float) -> None:
    """Turn WebDataset tar shards into a folder that `data show` and configs can name; print what was left out."""
    print(json.dumps(webdataset.convert(tars, out, held_out), indent=2))
