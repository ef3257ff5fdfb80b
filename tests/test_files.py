"""Files that are written whole or not at all."""

import json

import pytest

from diffusion_jax import files


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"a": "ü"})

    def half(file):
        file.write(b"half of it")
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        files.write_whole(path, half)
    assert json.loads(path.read_bytes()) == {"a": "ü"}
    assert list(tmp_path.iterdir()) == [path]


def test_folders_above_are_made(tmp_path):
    files.write_json(tmp_path / "a" / "b.json", [1])
    assert (tmp_path / "a" / "b.json").read_text() == "[\n  1\n]\n"


@pytest.mark.parametrize("name", ["there", "new"])
def test_files_are_written_together_or_not_at_all(tmp_path, name):
    files.write_json(tmp_path / "there" / "a.json", "old")
    files.write_json(tmp_path / "there" / "other.json", "stays")

    def write(fails):
        with files.written_together(tmp_path / name) as beside:
            files.write_json(beside / "a.json", "new")
            if fails:
                raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        write(fails=True)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.json", "other.json", "there"]
    assert json.loads((tmp_path / "there" / "a.json").read_text()) == "old"
    write(fails=False)
    assert json.loads((tmp_path / name / "a.json").read_text()) == "new"
    assert json.loads((tmp_path / "there" / "other.json").read_text()) == "stays"
