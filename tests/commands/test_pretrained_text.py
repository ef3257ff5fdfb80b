"""A text encoder that was trained elsewhere: as it is or trained on, and a run that needs its folder no more."""

import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax import trained
from diffusion_jax.data import tokenizers
from diffusion_jax.interop.huggingface import TextEncoder, load_text_encoder, save_text_encoder
from diffusion_jax.models.t5 import T5Encoder
from diffusion_jax.placement import initial_state
from diffusion_jax.training import checkpoint


@pytest.fixture
def folder(tmp_path):
    """A byte-reading T5 with parameters that no init draws."""
    module = T5Encoder(tokenizers.BYT5_VOCAB, dim=16, d_kv=8, d_ff=16, heads=1, layers=1)
    one = jnp.zeros((1, 1), jnp.int32)
    params = jax.tree.map(lambda p: p + 0.25, jax.jit(module.init)(jax.random.key(5), one, one == 0)["params"])
    save_text_encoder(tmp_path / "encoder", TextEncoder(module, params, tokenizers.byt5()))
    return tmp_path / "encoder"


@pytest.fixture
def train(command, mini, folder, tmp_path):
    """Trains the small config on that text encoder; returns exit code, complaints and the run's folder."""

    def call(tokenizer=None, **settings):
        tokenizer = tokenizer or dict(name="pretrained", folder=str(folder), max_length=20)
        encoder = dict(name="pretrained", folder=str(folder)) | settings
        encoder = {name: value for name, value in encoder.items() if value is not None}
        lines = f"    config.tokenizer = {tokenizer}\n    config.text_encoder = {encoder}\n    return config\n"
        path = tmp_path / "config.py"
        path.write_text(mini.read_text().replace("    return config\n", lines))
        code, call.out, err = command("train", f"--config={path}", f"--workdir={tmp_path / 'run'}")
        return code, err, tmp_path / "run"

    return call


def text_encoder_of(run):
    return checkpoint.load_params(run)[0]["text_encoder"]


def test_as_it_is_it_stays_bit_for_bit_and_the_run_can_do_without_its_folder(train, folder, command, tmp_path):
    before = load_text_encoder(folder).params
    code, err, run = train()
    assert (code, err) == (0, "")
    chex.assert_trees_all_equal(text_encoder_of(run), before)
    shutil.rmtree(folder)
    moved = run.rename(tmp_path / "elsewhere")
    model = trained.load(moved)
    assert model.experiment.fixed == ("text_encoder",)
    tokens, mask = model.experiment.text.tokenize(["a red circle"])
    assert (tokens[0, :3] == [100, 35, 117]).all()
    assert mask.sum() == 13
    code, _, err = command("sample", f"--workdir={moved}", "--prompt=a red circle", f"--out={tmp_path / 'pictures'}")
    assert (code, err) == (0, "")


def test_the_optimizer_holds_nothing_of_what_stays(train):
    _, _, run = train()
    model = trained.load(run)
    moments = jax.eval_shape(lambda: model.experiment.optimizer.init({"denoiser": model.params["denoiser"]}))
    saved = checkpoint.load_params(run)[0]
    assert {"text_encoder", "denoiser"} <= saved.keys()
    state = jax.eval_shape(lambda key: initial_state(model.experiment, key), jax.random.key(0))
    assert jax.tree.structure(state.opt_state) == jax.tree.structure(moments)


def test_trained_further_it_begins_where_it_was_and_changes(train, folder):
    before = load_text_encoder(folder).params
    code, err, run = train(trained=True, dropout=0.1)
    assert (code, err) == (0, "")
    after = text_encoder_of(run)
    moved = [float(np.abs(a - b).max()) for a, b in zip(*map(jax.tree.leaves, (after, before)), strict=True)]
    assert min(moved) > 0
    assert max(moved) < 0.4  # eight steps of at most 0.03 each: an encoder of another start is 1 away


def test_several_that_are_joined_are_kept_in_the_run_too(train, folder, command, tmp_path):
    before = load_text_encoder(folder).params
    each = [dict(name="pretrained", folder=str(folder), max_length=length) for length in (20, 8)]
    encoders = [dict(name="pretrained", folder=str(folder))] * 2
    joined = dict(name="joined", tokenizers=each)
    code, err, run = train(joined, name="joined", along="length", encoders=encoders, folder=None)
    assert (code, err) == (0, "")
    assert "of 11 training captions, 11 are longer than what is read of them" in train.out
    chex.assert_trees_all_equal(text_encoder_of(run), {"encoder_0": before, "encoder_1": before})
    shutil.rmtree(folder)
    model = trained.load(run.rename(tmp_path / "elsewhere"))
    assert model.experiment.fixed == ("text_encoder",)
    tokens, mask = model.experiment.text.tokenize(["a red circle"])
    assert tokens.shape == (1, 28)
    assert mask.sum() == 13 + 8


@pytest.mark.parametrize(
    ("tokenizer", "settings", "line"),
    [
        (None, dict(dropout=0.1), "config.text_encoder: dropout=0.1 acts where an encoder"),
        (None, dict(dtype="float31"), "config.text_encoder: dtype is 'float31'"),
        (dict(name="pretrained", folder="nowhere"), {}, "no text encoder nowhere: it is no folder"),
        (dict(name="byt5", max_length=1), {}, "max_length is 1"),
        (None, dict(name="joined", folder=None, encoders=[{}, {}]), "config.tokenizer: 0 tokenizers for 2 joined"),
        (None, dict(name="joined", folder=None), "config.text_encoder: joined does not fit here (missing"),
        (None, dict(name="joined", folder=None, encoders=[]), "config.text_encoder: 0 text encoders along"),
    ],
)
def test_what_does_not_fit_is_one_line(train, tokenizer, settings, line):
    code, err, run = train(tokenizer, **settings)
    assert code == 1
    assert line in err
    assert err.count("\n") == 1
    assert not run.exists()


def test_another_encoders_tokenizer_is_refused(train, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "other")
    code, err, _ = train(dict(name="pretrained", folder=str(tmp_path / "other")))
    assert code == 1
    assert "an encoder knows no tokenizer but its own" in err
