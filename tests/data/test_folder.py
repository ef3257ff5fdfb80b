import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffusion_jax.data.folder import folder
from diffusion_jax.data.splits import names_of, split_of


def paint(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 3), (value, 0, 0)).save(path)


def imagefolder(root: Path, count: int = 40, column: str = "text") -> Path:
    rows = []
    for i in range(count):
        paint(root / f"{i:03}.png", i)
        rows.append(json.dumps({"file_name": f"{i:03}.png", column: f"picture {i}", "other": None}))
    (root / "metadata.jsonl").write_text("\n".join(rows) + "\n\n", "utf-8")
    return root


def ids(source) -> list[str]:
    return [source[i]["id"] for i in range(len(source))]


@pytest.mark.parametrize("column", ["text", "caption", "captions"])
def test_metadata_pairs_every_picture_with_its_caption(tmp_path, column):
    root = imagefolder(tmp_path, column=column)
    for split in ("train", "validation"):
        source = folder(root, split, held_out=0.3)
        assert [source.captions(i) for i in range(len(source))] == [example["captions"] for example in source]
        for example in source:
            number = int(example["id"][:3])
            assert example["captions"] == (f"picture {number}",)
            assert example["image"].shape == (3, 4, 3)
            assert (example["image"][..., 0] == number).all()


def test_several_captions_in_one_row(tmp_path):
    paint(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png", "captions": ["b", " c ", "", 3, "b"]}))
    assert folder(tmp_path, "train", held_out=0.0)[0]["captions"] == ("b", "c")


def test_text_files_beside_pictures_at_any_depth(tmp_path):
    paint(tmp_path / "a.png", 1)
    paint(tmp_path / "deep" / "er" / "b.JPG", 2)
    (tmp_path / "a.txt").write_text("an a\nthe first letter\n\n", "utf-8")
    (tmp_path / "deep" / "er" / "b.txt").write_text("ein Käfer 🙂", "utf-8")
    (tmp_path / "notes.md").write_text("no picture")
    source = folder(tmp_path, "train", held_out=0.0)
    assert ids(source) == ["a.png", "deep/er/b.JPG"]
    assert source[0]["captions"] == ("an a", "the first letter")
    assert source[1]["captions"] == ("ein Käfer 🙂",)


def test_the_splits_share_nothing_and_miss_nothing(tmp_path):
    root = imagefolder(tmp_path, 60)
    train, held = ids(folder(root, "train", 0.2)), ids(folder(root, "validation", 0.2))
    assert sorted(train + held) == [f"{i:03}.png" for i in range(60)]
    assert 4 <= len(held) <= 22


def test_new_pictures_do_not_move_old_ones_to_the_other_split():
    names = [f"{i}.png" for i in range(400)]
    before = {split: set(names_of(names[:300], split, 0.1)) for split in ("train", "validation")}
    after = {split: set(names_of(names, split, 0.1)) for split in ("train", "validation")}
    assert before["train"] <= after["train"]
    assert before["validation"] <= after["validation"]


def test_the_held_out_fraction():
    held = sum(split_of(f"{i}", 0.05) == "validation" for i in range(20_000))
    assert held == pytest.approx(1000, abs=120)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_even_a_few_pictures_leave_both_splits_something(tmp_path, count):
    root = imagefolder(tmp_path, count)
    assert len(folder(root, "validation", 0.01)) == 1
    assert len(folder(root, "train", 0.01)) == count - 1


def test_subfolders_named_as_splits_are_the_splits(tmp_path):
    imagefolder(tmp_path / "train", 5)
    imagefolder(tmp_path / "validation", 3)
    assert (len(folder(tmp_path, "train")), len(folder(tmp_path, "validation"))) == (5, 3)


def test_pictures_without_a_caption_are_left_out_and_counted(tmp_path, caplog):
    paint(tmp_path / "a.png")
    paint(tmp_path / "b.png")
    paint(tmp_path / "c.png")
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.txt").write_text("  \n")
    assert ids(folder(tmp_path, "train", 0.0)) == ["a.png"]
    folder(tmp_path, "validation")
    assert caplog.text.count("2 of 3 pictures") == 1


@pytest.mark.parametrize(
    ("line", "error", "message"),
    [
        (b"{", ValueError, "line 1 is not JSON in UTF-8"),
        (b'{"file_name": "a.png", "text": "\xff"}', ValueError, "line 1 is not JSON in UTF-8"),
        (b"[" * 100_000, ValueError, "line 1 is not JSON in UTF-8"),
        (b"[1]", ValueError, 'line 1 has no "file_name"'),
        (b'{"text": "x"}', ValueError, 'line 1 has no "file_name"'),
        (b'{"file_name": "../secret.png", "text": "x"}', ValueError, "outside the folder: '../secret.png'"),
        (b'{"file_name": "/etc/passwd", "text": "x"}', ValueError, "outside the folder"),
        (b'{"file_name": "link.png", "text": "x"}', ValueError, "outside the folder"),
        (b'{"file_name": "b.png", "text": "x"}', FileNotFoundError, "not there: 'b.png'"),
        (b'{"file_name": "a.png", "text": ""}', ValueError, "no captioned pictures"),
        (b'{"file_name": "a.png", "text": "\\ud800"}', ValueError, "no captioned pictures"),
        (b'{"file_name": "a.png", "label": 3}', ValueError, "no captioned pictures"),
    ],
)
def test_bad_metadata_is_one_clear_line(tmp_path, line, error, message):
    paint(tmp_path / "secret.png")
    paint(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "link.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "in" / "metadata.jsonl").write_bytes(line)
    with pytest.raises(error) as caught:
        folder(tmp_path / "in", "train")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_link_out_of_the_folder_is_not_followed(tmp_path):
    paint(tmp_path / "secret.png")
    paint(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "link.png").symlink_to(tmp_path / "secret.png")
    for name in ("a", "link"):
        (tmp_path / "in" / f"{name}.txt").write_text("x")
    assert ids(folder(tmp_path / "in", "train", 0.0)) == ["a.png"]


def test_a_caption_file_that_is_not_utf8(tmp_path):
    paint(tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match=r"a\.txt is not valid UTF-8"):
        folder(tmp_path, "train")


def test_a_broken_picture_is_named(tmp_path):
    imagefolder(tmp_path, 3)
    (tmp_path / "001.png").write_bytes(b"no picture")
    source = folder(tmp_path, "train", 0.0)
    assert np.asarray(source[0]["image"]).any() == 0
    with pytest.raises(ValueError, match=r"001\.png: The bytes are no picture"):
        source[1]


def test_bad_arguments(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        folder(tmp_path / "absent", "train")
    with pytest.raises(ValueError, match="no captioned pictures"):
        folder(tmp_path, "train")
    with pytest.raises(ValueError, match="split is 'test'"):
        folder(tmp_path, "test")
    with pytest.raises(ValueError, match="held_out is 1"):
        folder(tmp_path, "train", 1.0)
