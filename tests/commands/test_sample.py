"""Pictures of sentences: the same for a seed however they are asked for, and one line for what cannot be drawn."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from diffusion_jax import gallery, pretrained, trained


@pytest.fixture
def sample(command, trained_once, tmp_path):
    """Draws with the small trained model into a folder; returns exit code, output, complaints and that folder."""

    def call(*words, out="pictures", workdir=trained_once):
        return *command("sample", f"--workdir={workdir}", f"--out={tmp_path / out}", *words), tmp_path / out

    return call


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_what_is_written(sample):
    code, out, err, folder = sample("--prompt=a red circle", "--prompt=Two blue shapes!", "--count=2")
    assert (code, err) == (0, "")
    assert {path.name for path in folder.iterdir()} == {
        "a_red_circle_0.png", "a_red_circle_1.png", "two_blue_shapes_0.png", "two_blue_shapes_1.png", "grid.png",
        "strip_a_red_circle.png", "strip_a_red_circle.gif", "strip_two_blue_shapes.png", "strip_two_blue_shapes.gif",
    }  # fmt: skip
    assert out == f"4 pictures of 2 prompts in {folder}/: look at {folder / 'grid.png'}\n"
    assert pixels(folder / "a_red_circle_0.png").shape == (16, 16, 3)
    with Image.open(folder / "strip_a_red_circle.gif") as film:
        assert film.n_frames == 3  # as many as there are noise levels


def test_the_same_seed_draws_the_same_however_it_is_asked_for(sample, tmp_path):
    """Alone, beside others, in another order, from a file, and in a second chunk: bit for bit."""
    _, _, _, many = sample("--prompt=a red circle", "--count=18", out="many")
    (tmp_path / "prompts.txt").write_text("two blue squares\n\n  a red circle \n")
    _, _, _, few = sample(f"--prompts={tmp_path / 'prompts.txt'}", "--count=2", out="few")
    for number in (0, 1):
        name = f"a_red_circle_{number}.png"
        np.testing.assert_array_equal(pixels(many / name), pixels(few / name))
    assert not np.array_equal(pixels(many / "a_red_circle_0.png"), pixels(many / "a_red_circle_17.png"))


def test_a_picture_of_the_second_chunk_is_what_it_is_alone(command, trained_once):
    from diffusion_jax import drawing

    model = trained.load(str(trained_once))
    draw = drawing.make_drawing(model.experiment, model.config.sampling)
    words = [f"{number} red circles" for number in range(20)]
    together = draw(model.params, words, seed=3)
    alone = draw(model.params, words[18:19], seed=3, numbers=[18], watched=())
    np.testing.assert_array_equal(alone.pictures[0], together.pictures[18])
    assert together.noisy.shape == (3, 20, 16, 16, 3)
    assert alone.noisy.shape == (3, 0, 16, 16, 3)


def test_what_changes_the_pictures(sample):
    def drawn(*words):
        code, _, err, folder = sample("--prompt=a red circle", "--cfg_scale=300", *words)
        assert (code, err) == (0, "")
        return pixels(folder / "a_red_circle_0.png").astype(int)

    base = drawn()
    np.testing.assert_array_equal(drawn("--negative_prompt="), base)
    for words in (["--negative_prompt=green"], ["--seed=1"], ["--cfg_scale=1"], ["--sampler=euler"]):
        assert np.abs(drawn(*words) - base).max() > 0, words


def test_the_configs_own_prompts_unless_others_are_given(sample):
    _, out, _, folder = sample()
    assert "2 pictures of 2 prompts" in out
    assert (folder / "two_blue_squares_0.png").exists()


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("", "picture"),
        ("❤️ 🎨", "picture"),
        ("../../etc/passwd", "etc_passwd"),
        ("/", "picture"),
        ("rotes HERZ\n\x00\x1b[1m", "rotes_herz_1m"),
        ("strip a", "a_strip_a"),
    ],
)
def test_any_prompt_has_a_name_that_stays_in_the_folder(sample, tmp_path, prompt, name):
    code, _, err, folder = sample("--prompt", prompt)
    assert (code, err) == (0, "")
    assert {path.name for path in folder.iterdir()} == {
        f"{name}_0.png", "grid.png", f"strip_{name}.png", f"strip_{name}.gif"
    }  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


def test_a_prompt_of_10000_characters_is_cut_and_that_is_said(sample):
    code, _, err, folder = sample("--prompt", "a red circle " * 770, "--prompt=a red circle \x1b[31m and more")
    assert code == 0
    assert err.splitlines() == [
        "too long, only its beginning is read: a red circle a red circle a red circle a...",
        "too long, only its beginning is read: a red circle [31m and more...",
    ]
    assert len(list(folder.glob("*_0.png"))) == 2


def test_a_prompt_that_is_not_utf8(sample):
    code, _, err, _ = sample("--prompt", os.fsdecode(b"red \xff heart"))
    line = "error: --prompt='red \\udcff heart' is not UTF-8: type it again, or put it into a file\n"
    assert (code, err) == (1, line)
    code, _, err, _ = sample("--prompt=a", "--negative_prompt", os.fsdecode(b"red \xff heart"))
    assert code == 1
    assert err.startswith("error: A caption is not UTF-8 at character 4: 'red \\udcff heart'")


def test_bytes_of_the_real_command_line_that_are_not_utf8(tmp_path, alone):
    line = [sys.executable, "-m", "diffusion_jax", "sample", "--workdir=none", b"--prompt=red \xff heart"]
    done = subprocess.run(line, env=alone, capture_output=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"error: --prompt='red \\udcff heart' is not UTF-8")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["--count=0"], 1, "--count=0: draw at least one picture"),
        (["--nfe=0"], 1, "nfe is 0, but this sampler calls the network at least 1 time"),
        (["--nfe=-3"], 1, "nfe is -3"),
        (["--sampler=heun", "--nfe=4"], 1, "nfe 4 cannot be had with this sampler: take 3 or 5"),
        (["--sampler=hoin"], 1, "has no 'hoin': did you mean heun"),
        (["--sampler=steps_for"], 1, "has no 'steps_for'"),
        (["--cfg_scale=nan"], 1, "--cfg_scale=nan is no finite number"),
        (["--cfg_scale=inf"], 1, "--cfg_scale=inf is no finite number"),
        (["--cfg_scale=1e38"], 1, "the pictures hold NaN"),
        (["--cfg_scale=much"], 2, "--cfg_scale=much"),
        (["--seed=-1"], 2, "--seed=-1"),
        (["--prompts=nowhere.txt"], 1, "no prompt file nowhere.txt"),
        (["--pretrained=emoji"], 1, "give either --workdir=RUN or --pretrained=NAME"),
        (["--beside=emojy"], 1, "no pretrained weights 'emojy'"),
        (["a red heart"], 2, "wrong words ['a red heart']"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(sample, words, code, line):
    found, out, err, folder = sample("--prompt=a red circle", *words)
    assert line in err
    assert (found, out, err.count("\n")) == (code, "", 1)
    assert not list(folder.glob("*"))


def test_shipped_weights_and_a_run_beside_them(sample, command, trained_once, tmp_path, monkeypatch):
    """What a run exports can be shipped, and draws on one sheet with the run, below it, but for float16 the same."""
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    trained.export(trained_once, tmp_path / "shapes")
    assert pretrained.names() == ["shapes"]
    code, out, err, folder = sample("--prompt=a red circle", "--beside=shapes")
    assert (code, err) == (0, "")
    assert out.endswith(f"look at {folder / 'beside.png'}\n")
    own, both = pixels(folder / "grid.png"), pixels(folder / "beside.png")
    np.testing.assert_array_equal(both[: len(own), : own.shape[1]], own)
    assert both.shape[0] > 1.5 * own.shape[0]
    code, _, err = command("sample", "--pretrained=shapes", "--prompt=a red circle", f"--out={tmp_path / 'alone'}")
    assert (code, err) == (0, "")
    one, other = (pixels(where / "a_red_circle_0.png").astype(int) for where in (folder, tmp_path / "alone"))
    assert np.abs(one - other).max() <= 8


@pytest.mark.parametrize(
    ("content", "line"), [(b"", "holds no prompt"), (b" \n\n", "holds no prompt"), (b"a\xffb", "is not UTF-8 (byte 1)")]
)
def test_a_prompt_file_without_prompts(sample, tmp_path, content, line):
    (tmp_path / "prompts.txt").write_bytes(content)
    code, _, err, _ = sample(f"--prompts={tmp_path / 'prompts.txt'}")
    assert line in err
    assert (code, err.count("\n")) == (1, 1)


def test_a_prompt_file_of_a_windows_editor(tmp_path):
    (tmp_path / "prompts.txt").write_bytes("a\r\nb ü\r\n".encode("utf-8-sig"))
    assert gallery.read_prompts(["first"], str(tmp_path / "prompts.txt")) == ["first", "a", "b ü"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "give either --workdir=RUN or --pretrained=NAME"),
        (["--workdir=nowhere"], "nowhere is no run folder: it holds no config.json"),
        (["--pretrained=nothing"], "no pretrained weights 'nothing'"),
        (["--pretrained=../emoji"], "no pretrained weights '../emoji'"),
    ],
)
def test_no_model(command, tmp_path, words, line):
    code, _, err = command("sample", "--prompt=a", f"--out={tmp_path}", *words)
    assert line in err
    assert (code, err.count("\n")) == (1, 1)


def test_a_moved_run_draws_the_same(sample, trained):
    _, _, _, before = sample("--prompt=a red circle", out="before")
    moved = trained.rename(trained.with_name("moved elsewhere"))
    code, _, _, after = sample("--prompt=a red circle", out="after", workdir=moved)
    assert code == 0
    np.testing.assert_array_equal(pixels(before / "a_red_circle_0.png"), pixels(after / "a_red_circle_0.png"))


def test_a_run_folder_needs_no_more_than_its_config_and_a_checkpoint(sample, trained):
    for path in trained.iterdir():
        if path.name == "checkpoints":
            shutil.rmtree(path / "6")
        elif path.name != "config.json":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert sample("--prompt=a red circle", workdir=trained)[0] == 0


def test_a_run_without_a_checkpoint(sample, trained):
    shutil.rmtree(trained / "checkpoints")
    code, _, err, _ = sample("--prompt=a", workdir=trained)
    assert code == 1
    assert f"{trained} holds no checkpoint: train it first" in err


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (dict(schedule=dict(name="os:system", command="touch owned")), "calls os:system, which is not of this project"),
        (dict(sampling=dict(sampler=dict(name="evil.code:run"))), "calls evil.code:run"),
        (dict(denoiser=None), "config.denoiser is None: write dict(name=..., **arguments)"),
    ],
)
def test_a_config_of_somebody_else_runs_no_code_of_somebody_else(sample, trained, monkeypatch, tmp_path, change, line):
    config = json.loads((trained / "config.json").read_text())
    (trained / "config.json").write_text(json.dumps(config | change))
    monkeypatch.chdir(tmp_path)
    code, _, err, _ = sample("--prompt=a", workdir=trained)
    assert line in err
    assert (code, err.count("\n")) == (1, 1)
    assert not (tmp_path / "owned").exists()


def test_code_of_somebody_else_that_is_trusted(monkeypatch, tmp_path):
    from ml_collections import ConfigDict

    config = ConfigDict(dict(schedule=dict(name="lab.schedules:mine"), weighting=dict(name="experiments.mine:flat")))
    with pytest.raises(ValueError, match=r"set DIFFUSION_JAX_TRUST=lab$"):
        trained.check_trust(config, "run")
    monkeypatch.setenv("DIFFUSION_JAX_TRUST", "other,lab")
    trained.check_trust(config, "run")


def test_a_folder_that_cannot_be_written_is_known_before_drawing(sample, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err, _ = sample("--prompt=a", out="file/pictures")
    assert code == 1
    assert "Not a directory" in err
    assert err.count("\n") == 1


def rgba():
    picture = Image.new("RGBA", (20, 30), (255, 0, 0, 255))
    picture.paste((0, 0, 0, 0), (0, 0, 20, 15))
    return picture


KINDS = {
    "plain.png": lambda: Image.new("RGB", (50, 40), "teal"),
    "alpha.png": rgba,
    "sixteen.png": lambda: Image.fromarray(np.arange(1024, dtype=np.uint16).reshape(32, 32) * 64),
    "cmyk.jpg": lambda: Image.new("CMYK", (16, 16), (0, 255, 255, 0)),
    "one.png": lambda: Image.new("L", (1, 1), 200),
    "gray.webp": lambda: Image.new("L", (300, 10), 9),
}


@pytest.mark.parametrize("name", KINDS)
def test_destroy_any_kind_of_picture(command, tmp_path, name):
    KINDS[name]().save(tmp_path / name)
    code, out, err = command("sample", f"--destroy={tmp_path / name}", f"--out={tmp_path / 'out'}", "--seed=2")
    assert (code, err) == (0, "")
    assert out == f"look at {tmp_path / 'out' / 'strip_destroyed.png'}\n"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"strip_destroyed.png", "strip_destroyed.gif"}


def test_destroy_an_animation_takes_its_first_frame_and_ends_in_noise(command, tmp_path):
    frames = [Image.new("RGB", (24, 24), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    assert command("sample", f"--destroy={tmp_path / 'film.gif'}", f"--out={tmp_path}")[0] == 0
    with Image.open(tmp_path / "strip_destroyed.gif") as film:
        shown = [np.asarray(film.convert("RGB")) for _ in range(film.n_frames) if film.seek(_) is None]
    assert len(shown) == 24
    first, last = (frame[20:120, 20:120].astype(float) for frame in (shown[0], shown[-1]))
    assert first.mean((0, 1)) == pytest.approx([255, 0, 0], abs=20)
    assert last.std() > 50
    assert abs(last.mean() - 128) < 15


@pytest.mark.parametrize(
    ("content", "line"),
    [(b"GIF89a nothing", "broken.png: "), (b"", "broken.png: "), (None, "no picture "), ("folder", "Is a directory")],
)
def test_destroy_what_is_no_picture(command, tmp_path, content, line):
    if content == "folder":
        (tmp_path / "broken.png").mkdir()
    elif content is not None:
        (tmp_path / "broken.png").write_bytes(content)
    code, _, err = command("sample", f"--destroy={tmp_path / 'broken.png'}", f"--out={tmp_path / 'out'}")
    assert line in err
    assert (code, err.count("\n")) == (1, 1)
    assert not (tmp_path / "out").exists()


def test_destroy_on_the_schedule_of_a_model(command, trained_once, tmp_path):
    KINDS["plain.png"]().save(tmp_path / "plain.png")
    words = (f"--destroy={tmp_path / 'plain.png'}", f"--out={tmp_path / 'out'}", f"--workdir={trained_once}")
    assert command("sample", *words)[0] == 0


def test_file_names_are_different_even_for_the_same_prompt():
    names = gallery.file_names(["a", "a", "a 1x", "A!", "ä", "é", "strip a", "b" * 100])
    assert len(set(names)) == len(names)
    assert names[:2] == ["a", "a_1x"]
    assert all(len(name) <= 44 and not name.startswith("strip") for name in names)
