"""Captions embedded before a training: the run reads them, holds no encoder, and knows which one it was."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax import build, drawing, text, trained
from diffusion_jax.data import tokenizers
from diffusion_jax.interop import huggingface
from diffusion_jax.models.t5 import T5Encoder
from diffusion_jax.text import embedded as embedded_text

CACHED = """
    folder = "encoder"
    config.data = dict(name="shapes", size=32, count=12)
    config.tokenizer = dict(name="pretrained", folder=folder, max_length=20)
    config.text_encoder = dict(name="pretrained", folder=folder, cached=True)
    return config
"""


def save_encoder(folder, seed):
    module = T5Encoder(tokenizers.BYT5_VOCAB, dim=16, d_kv=8, d_ff=16, heads=1, layers=1)
    one = jnp.zeros((1, 1), jnp.int32)
    params = jax.jit(module.init)(jax.random.key(seed), one, one == 0)["params"]
    huggingface.save_text_encoder(folder, huggingface.TextEncoder(module, params, tokenizers.byt5()))


@pytest.fixture
def here(mini, tmp_path, monkeypatch):
    """A folder with an encoder and a config."""
    monkeypatch.chdir(tmp_path)
    save_encoder("encoder", 0)
    (tmp_path / "config.py").write_text(mini.read_text().replace("    return config\n", CACHED))
    return tmp_path


@pytest.fixture
def embedded(here, command):
    assert command("data", "embed", "--config=config.py")[0] == 0
    return here


def train(command, *words):
    code, _, err = command("train", "--config=config.py", "--workdir=run", *words)
    return code, err


def forbidden(*_, **__):
    raise AssertionError("the encoder was loaded")


def test_a_training_never_loads_the_encoder_and_drawing_does(embedded, command, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(huggingface, "load_text_encoder", forbidden)
        assert train(command) == (0, "")
    model = trained.load("run")
    assert model.params.keys() == {"denoiser"}
    assert model.experiment.fixed == ()
    code, _, err = command("sample", "--workdir=run", "--prompt=no data has it", "--out=pictures")
    assert (code, err) == (0, "")
    code, out, err = command("evaluate", "--workdir=run", "--count=8")
    assert (code, err) == (0, "")
    assert "validation/gap" in out


def test_what_is_drawn_while_training_is_what_the_encoder_draws(embedded, command):
    assert train(command)[0] == 0
    model, prompts = trained.load("run"), ["a red circle", "two blue squares"]
    pictures = [
        drawing.make_drawing(experiment, model.config.sampling)(model.params, prompts, seed=0).pictures
        for experiment in (model.experiment, build.build(model.config, "data"))
    ]
    np.testing.assert_array_equal(*pictures)


def test_several_encoders_have_a_cache_each(here, command, monkeypatch):
    save_encoder("second", 1)
    lines = """
    config.tokenizer = dict(name="joined", tokenizers=(config.tokenizer, dict(name="pretrained", folder="second")))
    second = dict(config.text_encoder, folder="second")
    config.text_encoder = dict(name="joined", encoders=(config.text_encoder, second))
    return config
"""
    config = (here / "config.py").read_text().replace("    return config\n", lines)
    (here / "config.py").write_text(config)
    code, out, _ = command("data", "embed", "--config=config.py")
    assert (code, len(out.splitlines())) == (0, 4)
    with monkeypatch.context() as patch:
        patch.setattr(huggingface, "load_text_encoder", forbidden)
        assert train(command) == (0, "")
    assert sorted(path.name for path in (here / "run" / "text_encoder").iterdir()) == ["encoder_0", "encoder_1"]
    assert trained.load("run").experiment.text.tokenize(["a red circle"])[0].shape == (1, 20 + 64, 16)
    shutil.rmtree("second")
    save_encoder("second", 2)
    code, _, err = command("sample", "--workdir=run")
    assert code == 1
    assert "second is not the text encoder that run/text_encoder/encoder_1 tells of: encoder" in err


def test_embeddings_are_those_of_the_encoder_in_the_step_but_for_rounding(embedded):
    captions = ["a red circle", "", "two blue squares"]
    tokenize = tokenizers.pretrained("encoder", 20)
    plain, live, kept = (
        text.pretrained(tokenize, "encoder", **settings)
        for settings in ({}, {"cached": True}, {"cached": True, "caches": build.caches("data")})
    )
    tokens, mask = plain.tokenize(captions)
    wanted = jax.jit(plain.encode)(plain.load(), tokens, mask)
    wanted = np.where(mask[..., None], wanted.text_emb, 0)
    for words in (live, kept):
        cond = words.encode(None, *map(jnp.asarray, words.tokenize(captions)))
        assert cond.text_emb.dtype == jnp.float32
        np.testing.assert_array_equal(cond.text_mask, mask)
        np.testing.assert_allclose(cond.text_emb, wanted, rtol=2**-8)


def test_an_encoder_that_is_asked_again_and_again_forgets_and_gives_the_same(embedded, monkeypatch):
    monkeypatch.setattr(embedded_text, "KEPT", 3)
    tokenize = tokenizers.pretrained("encoder", 20)
    words = text.pretrained(tokenize, "encoder", cached=True)
    captions = ["a", "b", "a", "c", "d", "e", "f", "g", "h", "i"]
    first = words.tokenize(captions)
    for start in (0, 4, 0):
        again = words.tokenize(captions[start : start + 4])
        for now, before in zip(again, first, strict=True):
            np.testing.assert_array_equal(now, before[start : start + 4])


def test_another_encoder_is_refused_by_cache_and_run(embedded, command):
    assert train(command)[0] == 0
    shutil.rmtree("encoder")
    save_encoder("encoder", 1)
    code, err = train(command, "--config.train.steps=9")
    assert code == 1
    assert "is of another making, encoder" in err
    code, _, err = command("sample", "--workdir=run")
    assert code == 1
    assert "encoder is not the text encoder that run/text_encoder tells of: encoder" in err
    assert err.count("\n") == 1
    (embedded / "run" / "text_encoder" / "identity.json").write_text("{")
    code, _, err = command("sample", "--workdir=run")
    assert code == 1
    assert "run/text_encoder/identity.json is missing or damaged" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--config.sampling.prompts=('a prompt of today',)"], "captions are not embedded in data/embeddings/"),
        (["--config.data.count=400"], "captions are not embedded in data/embeddings/"),
        (["--config.text_encoder.dtype=bfloat16"], "is of another making, encoder"),
        (["--config.tokenizer.max_length=24"], "is of another making, max_length 20 there and 24 here"),
        (["--config.tokenizer.pad_is_text=True"], "is of another making, pad_is_text False there and True here"),
        (["--config.text_encoder.trained=True"], "config.text_encoder: what is cached does not change"),
        (["--data_dir=elsewhere"], "elsewhere/embeddings holds no embedded captions: run `diffusion-jax data embed"),
    ],
)
def test_what_is_not_there_is_one_line(embedded, command, words, line):
    config = (embedded / "config.py").read_text()
    settings = [word.removeprefix("--config.") for word in words if word.startswith("--config.")]
    for setting in settings:
        name, _, value = setting.partition("=")
        entry, _, key = name.partition(".")
        value = value if value[0] in "(" or value in ("True", "400", "24") else repr(value)
        line_of = f"    config.{entry} = dict(config.{entry}) | {{{key!r}: {value}}}\n    return config\n"
        config = config.replace("    return config\n", line_of)
    (embedded / "config.py").write_text(config)
    code, err = train(command, *(word for word in words if word.startswith("--data_dir")))
    assert code == 1
    assert line in err
    assert err.count("\n") == 1
