import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffusion_jax.data import webdataset
from diffusion_jax.data.webdataset import array_record, convert


def picture(value: int = 0, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (5, 4), (value, 0, 0)).save(out, kind)
    return out.getvalue()


def tar_of(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, body in members:
            info = tarfile.TarInfo(name)
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    return path


def good(start: int, count: int) -> list[tuple[str, bytes]]:
    """Rows as img2dataset writes them: picture, text and JSON under one key."""
    members = []
    for i in range(start, start + count):
        about = json.dumps({"caption": f"picture {i}", "key": f"{i:09}", "status": "success"}).encode()
        members += [(f"{i:09}.png", picture(i)), (f"{i:09}.txt", f"picture {i}".encode()), (f"{i:09}.json", about)]
    return members


def examples(path: Path) -> list[dict]:
    shards = json.loads((path / "dataset.json").read_text())["shards"]
    return [example for split in ("train", "validation") if shards[split] for example in array_record(path, split)]


def test_every_row_comes_back_with_its_caption(tmp_path):
    tars = [tar_of(tmp_path / f"{i:05}.tar", good(20 * i, 20)) for i in range(3)]
    report = convert(tars, tmp_path / "out", held_out=0.3)
    assert report["train"] + report["validation"] == 60
    assert report["skipped"] == {}
    assert len(array_record(tmp_path / "out", "train")) == report["train"]
    found = {e["id"]: e for e in examples(tmp_path / "out")}
    assert sorted(found) == [f"{i // 20:05}/{i:09}" for i in range(60)]
    for name, example in found.items():
        number = int(name[-9:])
        assert example["captions"] == (f"picture {number}",)
        assert (example["image"][..., 0] == number).all()
        assert example["image"].shape == (4, 5, 3)
    source = array_record(tmp_path / "out", "train")
    assert [source.captions(i) for i in range(len(source))] == [example["captions"] for example in source]


def test_captions_come_from_text_or_else_from_json_and_pictures_in_any_format(tmp_path):
    members = [
        ("a.jpg", picture(kind="JPEG")),
        ("a.json", b'{"caption": "from json"}'),
        ("b.txt", "aus Text: Käfer 🙂\n".encode()),
        ("b.webp", picture(kind="WEBP")),
        ("b.json", b'{"caption": "not this"}'),
        ("c.PNG", picture()),
        ("c.txt", b"  "),
        ("c.json", b'{"caption": ["several", "captions"], "url": null}'),
    ]
    convert([tar_of(tmp_path / "t.tar", members)], tmp_path / "out", held_out=0.0)
    assert {e["id"]: e["captions"] for e in examples(tmp_path / "out")} == {
        "t/a": ("from json",),
        "t/b": ("aus Text: Käfer 🙂",),
        "t/c": ("several", "captions"),
    }


def test_another_key_for_captions(tmp_path):
    tar = tar_of(tmp_path / "t.tar", [("a.png", picture()), ("a.json", b'{"caption": "x", "alt": "y"}')])
    convert([tar], tmp_path / "out", held_out=0.0, caption_key="alt")
    assert examples(tmp_path / "out")[0]["captions"] == ("y",)


def test_unusable_rows_are_counted_by_reason_and_not_fatal(tmp_path, monkeypatch):
    monkeypatch.setattr(webdataset, "MAX_BYTES", 5000)
    members = [
        *good(0, 2),
        *[("no-picture.txt", b"x")],
        *[("no-caption.png", picture())],
        *[("empty-caption.png", picture()), ("empty-caption.txt", b" \n")],
        *[("null-caption.png", picture()), ("null-caption.json", b'{"caption": null}')],
        *[("latin.png", picture()), ("latin.txt", b"caf\xe9")],
        *[("bad-json.png", picture()), ("bad-json.json", b"{")],
        *[("list-json.png", picture()), ("list-json.json", b"[]")],
        *[("deep-json.png", picture()), ("deep-json.json", b"[" * 4000)],
        *[("broken.png", picture()[:41]), ("broken.txt", b"x")],
        *[("text.png", b"hello"), ("text.txt", b"x")],
        *[("large.png", b"x" * 5001), ("large.txt", b"x")],
        *good(2, 2),
    ]
    report = convert([tar_of(tmp_path / "t.tar", members)], tmp_path / "out", held_out=0.0)
    assert report["skipped"] == {
        "no caption": 3,
        "json broken": 3,
        "picture broken": 2,
        "no picture": 1,
        "caption not UTF-8": 1,
        "picture too large": 1,
    }
    assert report["train"] == 4
    assert json.loads((tmp_path / "out" / "dataset.json").read_text()) == report
    assert len(array_record(tmp_path / "out", "train")) == 4


def test_a_tar_cut_short_gives_what_came_before(tmp_path):
    whole = tar_of(tmp_path / "t.tar", good(0, 10)).read_bytes()
    (tmp_path / "t.tar").write_bytes(whole[: 6 * 512 * 4 + 700])  # a row is three headers and three bodies of 512 bytes
    report = convert([tmp_path / "t.tar"], tmp_path / "out", held_out=0.0)
    assert report["train"] == 4
    assert any(reason.startswith("tar broken") for reason in report["skipped"])


@pytest.mark.parametrize("body", [b"", b"this is no tar" * 100])
def test_no_usable_row_at_all(tmp_path, body):
    (tmp_path / "t.tar").write_bytes(body)
    with pytest.raises(ValueError, match="No row of the 1 tar files is usable"):
        convert([tmp_path / "t.tar"], tmp_path / "out")


def test_names_in_a_tar_touch_nothing_outside(tmp_path):
    members = [
        ("../../escape.png", picture(1)),
        ("../../escape.txt", b"x"),
        ("/abs.png", picture(2)),
        ("/abs.txt", b"y"),
    ]
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        for name, body in members:
            info = tarfile.TarInfo(name)
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo("link.png")
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    before = sorted(p for p in tmp_path.parent.rglob("*") if tmp_path / "out" not in p.parents)
    report = convert([tmp_path / "t.tar"], tmp_path / "out", held_out=0.0)
    after = sorted(p for p in tmp_path.parent.rglob("*") if tmp_path / "out" not in p.parents and p != tmp_path / "out")
    assert before == after
    assert report["train"] == 2
    assert sorted(os.listdir(tmp_path / "out")) == ["dataset.json", "t.counts.json", "t.train.array_record"]


def test_a_second_run_converts_only_what_is_missing(tmp_path, monkeypatch):
    tars = [tar_of(tmp_path / f"{i}.tar", good(4 * i, 4)) for i in range(3)]
    first = convert(tars[:2], tmp_path / "out", held_out=0.0)
    (tmp_path / "out" / "1.train.array_record").unlink()
    opened, real = [], webdataset.rows
    monkeypatch.setattr(webdataset, "rows", lambda tar: opened.append(Path(tar).name) or real(tar))
    second = convert(tars, tmp_path / "out", held_out=0.0)
    assert opened == ["1.tar", "2.tar"]
    assert (first["train"], second["train"]) == (8, 12)
    assert len(array_record(tmp_path / "out", "train")) == 12


def test_other_settings_convert_again(tmp_path):
    tar = tar_of(tmp_path / "t.tar", good(0, 20))
    assert convert([tar], tmp_path / "out", held_out=0.0)["validation"] == 0
    assert convert([tar], tmp_path / "out", held_out=0.5)["validation"] > 0


def test_several_tars_at_once_give_the_same(tmp_path):
    tars = [tar_of(tmp_path / f"{i}.tar", good(4 * i, 4)) for i in range(2)]
    alone, together = convert(tars, tmp_path / "a", 0.3), convert(tars, tmp_path / "b", 0.3, workers=2)
    assert alone == together
    for a, b in zip(examples(tmp_path / "a"), examples(tmp_path / "b"), strict=True):
        assert a["id"] == b["id"]
        np.testing.assert_array_equal(a["image"], b["image"])


def test_bad_arguments(tmp_path):
    tar = tar_of(tmp_path / "t.tar", good(0, 1))
    (tmp_path / "other").mkdir()
    twin = tar_of(tmp_path / "other" / "t.tar", good(0, 1))
    with pytest.raises(ValueError, match="no tar files"):
        convert([], tmp_path / "out")
    with pytest.raises(FileNotFoundError, match=r"1 of 2 tar files are missing"):
        convert([tar, tmp_path / "absent.tar"], tmp_path / "out")
    with pytest.raises(ValueError, match="Two tar files are named t"):
        convert([tar, twin], tmp_path / "out")
    with pytest.raises(ValueError, match="held_out is 2"):
        convert([tar], tmp_path / "out", held_out=2.0)


def test_an_unfinished_conversion_says_so(tmp_path):
    (tmp_path / "t.train.array_record.part").write_bytes(b"half")
    with pytest.raises(FileNotFoundError, match="no finished conversion"):
        array_record(tmp_path, "train")


def test_damage_is_one_clear_line(tmp_path):
    convert([tar_of(tmp_path / "t.tar", good(0, 4))], tmp_path / "out", held_out=0.0)
    with pytest.raises(ValueError, match='no "validation" examples'):
        array_record(tmp_path / "out", "validation")
    shard = tmp_path / "out" / "t.train.array_record"
    shard.write_bytes(b"x" * 1000)
    with pytest.raises(ValueError, match="missing or broken") as caught:
        array_record(tmp_path / "out", "train")
    assert "\n" not in str(caught.value)
    (tmp_path / "out" / "dataset.json").write_text("{")
    with pytest.raises(ValueError, match=r"dataset\.json is broken"):
        array_record(tmp_path / "out", "train")


def test_a_listing_cannot_point_out_of_its_folder(tmp_path):
    convert([tar_of(tmp_path / "t.tar", good(0, 2))], tmp_path / "out", held_out=0.0)
    (tmp_path / "in").mkdir()
    listing = {"shards": {"train": ["../out/t.train.array_record"], "validation": []}}
    (tmp_path / "in" / "dataset.json").write_text(json.dumps(listing))
    with pytest.raises(ValueError, match="missing or broken"):
        array_record(tmp_path / "in", "train")
