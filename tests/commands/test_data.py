"""Data sets by name: built, looked at, converted. Nothing here touches a network."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from diffusion_jax import datasets
from diffusion_jax.data import emoji, sources


@pytest.fixture
def data(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *words: command("data", *words)


def png(color, size=(20, 12)):
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    """Six captioned pictures and one without a caption."""
    path = tmp_path / "mine"
    path.mkdir()
    for number in range(6):
        (path / f"{number}.png").write_bytes(png((40 * number, 0, 0)))
        (path / f"{number}.txt").write_text(f"shade {number}\nred {number}")
    (path / "bare.png").write_bytes(png("blue"))
    return path


def test_show_shapes(data, tmp_path):
    code, out, err = data("show", "shapes", "--count=6", "--seed=3", "--split=validation", "--out=sheet.png")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "shapes, validation: 6 of 1,000,000 examples, seed 3"
    assert lines[1].startswith("  shapes/validation/0/")
    assert lines[-1] == "look at sheet.png"
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert min(sheet.size) > 2 * datasets.SIDE
    again = (tmp_path / "sheet.png").read_bytes()
    data("show", "shapes", "--count=6", "--seed=3", "--split=validation", "--out=sheet.png")
    assert (tmp_path / "sheet.png").read_bytes() == again


def test_show_a_folder(data, folder, tmp_path):
    code, out, _ = data("show", folder, "--count=48")
    assert code == 0
    assert out.startswith(f"{folder}, train: 5 of 5 examples, seed 0\n")
    assert " | red " in out
    assert (tmp_path / "mine.png").exists()


def test_convert_and_show_what_came_out(data, tmp_path):
    with tarfile.open(tmp_path / "00000.tar", "w") as tar:
        for number in range(4):
            for name, content in (("png", png("green")), ("txt", b"a green field")):
                member = tarfile.TarInfo(f"{number:05}.{name}")
                member.size = len(content)
                if number or name == "png":  # the first has no caption
                    tar.addfile(member, io.BytesIO(content))
    code, out, err = data("convert", "00000.tar", "--out=converted", "--held_out=0.0")
    assert (code, err) == (0, "")
    counts = json.loads(out)
    assert (counts["train"], counts["validation"], counts["skipped"]) == (3, 0, {"no caption": 1})
    code, out, _ = data("show", "converted", "--out=sheet.png")
    assert code == 0
    assert out.startswith("converted, train: 3 of 3 examples")


def test_build_calls_what_builds(data, monkeypatch):
    called = []
    monkeypatch.setattr(emoji, "build", lambda data_dir, recipe: called.append((data_dir, recipe)) or {"pairs": 7})
    code, out, _ = data("build", "emoji", "--data_dir=here", "--recipe=openmoji")
    assert (code, json.loads(out), called) == (0, {"pairs": 7}, [("here", "openmoji")])
    assert data("build", "shapes")[:2] == (0, "shapes are drawn as they are needed: there is nothing to build\n")
    opened = []
    monkeypatch.setattr(sources, "tfds", lambda *words: opened.append(words) or range(5))
    code, out, _ = data("build", "mnist", "--data_dir=here")
    assert (code, json.loads(out)) == (0, {"train": 5, "validation": 5})
    assert opened == [("mnist", "train", "here"), ("mnist", "validation", "here")]


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["bild", "emoji"], 2, "say `data build NAME`"),
        (["build"], 2, "say `data build NAME`"),
        (["show", "a", "b"], 2, "say `data build NAME`"),
        (["convert", "a.tar"], 2, "`data convert TAR ... --out=FOLDER`"),
        ([], 2, "wrong words []"),
        (["show", "emoji"], 1, "run `diffusion-jax data build emoji` first"),
        (["show", "shapes", "--split=test"], 1, 'split is \'test\'; choose "train" or "validation".'),
        (["show", "shapes", "--count=0"], 2, "--count=0"),
        (["show", "shapes", "--seed=-1"], 2, "--seed=-1"),
        (["show", "my/own-pictures"], 1, "no folder my/own-pictures"),
        (["show", "../nowhere"], 1, "no folder ../nowhere"),
        (["convert", "nowhere.tar", "--out=x"], 1, "nowhere.tar"),
        (["build", "emoji", "--recipe=seven"], 1, "no emoji recipe 'seven': there are"),
    ],
)
def test_wrong_words_are_one_line(data, words, code, line):
    found, _, err = data(*words)
    assert line in err
    assert (found, err.count("\n")) == (code, 1)


def test_a_folder_without_captions(data, tmp_path):
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "a.png").write_bytes(png("blue"))
    code, _, err = data("show", "bare")
    assert code == 1
    assert "bare has no captioned pictures" in err


def test_a_broken_picture_names_its_file(data, folder):
    for number in range(6):
        (folder / f"{number}.png").write_bytes(b"broken")
    code, _, err = data("show", folder)
    assert code == 1
    assert "mine/" in err
    assert err.count("\n") == 1


def test_a_source_larger_than_the_count_is_drawn_from_all_over(data, folder):
    _, one, _ = data("show", folder, "--count=2", "--seed=1")
    _, two, _ = data("show", folder, "--count=2", "--seed=2")
    assert one.splitlines()[1:3] != two.splitlines()[1:3]
    assert np.array_equal(*(data("show", folder, "--count=2", "--seed=1")[1] for _ in range(2)))
