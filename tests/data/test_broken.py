"""Files of each source that vanish or are cut while they are read: one line that names the file, whoever reads it."""

import io
import itertools
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffusion_jax.__main__ import is_expected
from diffusion_jax.data import emoji
from diffusion_jax.data.broken import BrokenData, file_of, reading
from diffusion_jax.data.embeddings import open_cache
from diffusion_jax.data.folder import folder
from diffusion_jax.data.pipeline import batches
from diffusion_jax.data.tfds import tfds
from diffusion_jax.data.tokenizers import byt5
from diffusion_jax.data.webdataset import array_record, convert
from tests.data.test_embeddings import CAPTIONS, piece_files
from tests.data.test_embeddings import build as build_cache
from tests.data.test_emoji import recipe_in
from tests.data.test_tfds import FruitForTests  # noqa: F401  (registers itself)
from tests.data.test_webdataset import tar_of


def noise(number):
    """A picture of 12 kB: more of them than a reader holds in its buffer."""
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def pictures(root):
    for number in range(24):
        (root / f"{number}.png").write_bytes(noise(number))
        (root / f"{number}.txt").write_text("a cat")
    return folder(root, "train", held_out=0.0), sorted(root.glob("*.png"))


def shards(root):
    rows = [(f"{i}.{kind}", noise(i) if kind == "png" else b"a cat") for i in range(20) for kind in ("png", "txt")]
    tars = [tar_of(root / f"{name}.tar", rows) for name in "abc"]
    convert(tars, root / "out", held_out=0.0)
    return array_record(root / "out", "train"), sorted((root / "out").glob("*.array_record"))


def fruit(root):
    return tfds("fruit_for_tests", "train", str(root), train="train"), sorted(root.rglob("*train.array_record*"))


def drawings(root):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(emoji.RECIPES, "six_styles", recipe_in(root))
        emoji.build(root, workers=1, recipe="six_styles")
    return emoji.emoji("train", root), sorted(root.rglob("*train.array_record*"))


SOURCES = {"folder": pictures, "array_record": shards, "tfds": fruit, "emoji": drawings}


def reader(source, **how):
    """Reads every picture at each visit, and goes round the source in a few batches."""
    return batches(source, resolution=4, tokenizer=byt5(8), batch_size=4, seed=0, prefetch=2, cache_bytes=0, **how)


def hurt(file, how):
    match how:
        case "gone":
            file.unlink()
        case "cut":
            os.truncate(file, file.stat().st_size // 3)
        case "emptied":
            os.truncate(file, 0)


def ends_with(iterator, files):
    """The error that ends the reading is one line that names one of the files."""
    with pytest.raises((BrokenData, OSError)) as raised:
        list(itertools.islice(iterator, 60))
    iterator.close()
    assert is_expected(raised.value)
    line = str(raised.value)
    assert "\n" not in line
    assert any(str(file) in line for file in files), line


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("how", ["gone", "cut", "emptied"])
@pytest.mark.parametrize("name", SOURCES)
def test_a_file_that_is_hurt_before_it_is_opened(tmp_path, name, how, threads):
    """Its name was read when the run began, and it is not open yet; emoji are, because their words are read first."""
    source, files = SOURCES[name](tmp_path)
    source = pickle.loads(pickle.dumps(source))  # as a worker process has it: nothing is open
    hurt(files[-1], how)
    ends_with(reader(source, threads=threads), files[-1:])


@pytest.mark.parametrize(
    ("name", "how"),
    [("folder", "cut"), ("folder", "gone"), ("array_record", "cut"), *((name, "emptied") for name in SOURCES)],
)
def test_files_that_are_hurt_while_they_are_read(tmp_path, name, how):
    source, files = SOURCES[name](tmp_path)
    iterator = reader(source, threads=2)
    next(iterator)
    for file in files:
        hurt(file, how)
    ends_with(iterator, files)


@pytest.mark.parametrize("name", ["array_record", "tfds", "emoji"])
def test_a_file_that_is_open_is_read_on_after_it_is_gone(tmp_path, name):
    """Its bytes are there until it is closed; whoever starts anew is told."""
    source, files = SOURCES[name](tmp_path)
    iterator = reader(source, threads=0)
    for _ in range(60):
        next(iterator)
    for file in files:
        hurt(file, "gone")
    for _ in range(60):
        next(iterator)
    iterator.close()
    ends_with(reader(pickle.loads(pickle.dumps(source)), threads=0), files)


@pytest.mark.parametrize("name", ["folder", "array_record"])
def test_worker_processes_say_it_as_threads_do(tmp_path, name):
    source, files = SOURCES[name](tmp_path)
    iterator = reader(source, workers=1)
    next(iterator)
    for file in files:
        hurt(file, "cut")
    ends_with(iterator, files)


@pytest.mark.parametrize("how", ["gone", "cut", "emptied"])
def test_a_piece_of_embeddings(tmp_path, how):
    build_cache(tmp_path)
    cache, piece = open_cache(tmp_path), piece_files(tmp_path)[1]
    hurt(piece, how)
    with pytest.raises(BrokenData) as raised:
        cache.rows(CAPTIONS)
    assert str(raised.value).startswith(f"{piece} is truncated or broken (")
    assert "\n" not in str(raised.value)


def test_the_right_one_of_several_files_is_named(tmp_path):
    _, files = shards(tmp_path)
    paths = [str(file) for file in files]
    for known in ([(path, None) for path in paths], [(path, 20) for path in paths]):
        assert [file_of(known, index) for index in (0, 19, 20, 39, 40, 59, 60)] == [
            paths[0], paths[0], paths[1], paths[1], paths[2], paths[2], paths[2]
        ]  # fmt: skip
    files[1].unlink()
    assert file_of([(path, None) for path in paths], 59) == paths[1]


def test_want_of_memory_is_not_the_files_fault():
    with pytest.raises(MemoryError), reading([("a", 1)], 0):
        raise MemoryError


AT_ONCE = """
import threading
from diffusion_jax.data.tokenizers import byt5
failed = []

def first():
    try:
        byt5(8)(["a"])
    except BaseException as error:
        failed.append(error)

threads = [threading.Thread(target=first) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not failed, failed
"""


def test_threads_may_be_the_first_to_ask_for_tokens():
    paths = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run([sys.executable, "-c", AT_ONCE], env=os.environ | {"PYTHONPATH": paths}, capture_output=True)
    assert done.returncode == 0, done.stderr
