"""Trainings that begin with what was trained: whole, or as factors beside parameters that stay."""

import importlib.util
import json
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax import build, drawing, placement, pretrained, trained
from diffusion_jax.__main__ import main
from diffusion_jax.data import tokenizers
from diffusion_jax.interop import t5_layout
from diffusion_jax.interop.huggingface import TextEncoder, load_text_encoder, save_text_encoder
from diffusion_jax.interop.lora_file import load_lora
from diffusion_jax.interop.safetensors_file import load_params
from diffusion_jax.models.t5 import T5Encoder
from diffusion_jax.training import checkpoint, parallel
from tests.commands.test_train import state_of

BOTH = "text_encoder/.*/q/|denoiser/.*cross_attention/"
QUICK = tuple(f"--config.train.{name}_every=0" for name in ("validate", "sample", "save"))


@pytest.fixture(scope="module")
def old(trained_once, tmp_path_factory):
    """A run to begin with, at a path of its own."""
    return shutil.copytree(trained_once, tmp_path_factory.mktemp("old") / "run")


@pytest.fixture(scope="module")
def words(mini, old):
    """How its factors are trained."""
    lora = [f"--config.lora.{name}={value}" for name, value in dict(rank=2, alpha=4.0, where=BOTH).items()]
    return ["train", f"--config={mini}", f"--config.begin={old}", *lora, *QUICK]


@pytest.fixture(scope="module")
def tuned(one_device, words, tmp_path_factory):
    """A run of factors for both parts that has ended."""
    workdir = tmp_path_factory.mktemp("tuned") / "run"
    with pytest.MonkeyPatch.context() as patch:
        one_device(patch)
        assert main([*words, f"--workdir={workdir}"]) == 0
    return workdir


def largest(tree):
    """The largest number of each leaf."""
    return [float(np.abs(leaf).max()) for leaf in jax.tree.leaves(tree)]


def test_what_is_adapted_stays_bit_for_bit_and_the_factors_learn(old, tuned):
    before = checkpoint.load_params(old)[0]
    _, now = state_of(tuned)
    for params in (now["params"], now["ema_params"]):
        chex.assert_trees_all_equal({name: params[name] for name in before}, before)
        assert min(largest(params["lora"])) > 1e-3
    paths = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(now["opt_state"])
    ]
    moments = [path for path in paths if "/mu/" in path]
    assert all("/mu/lora/" in path for path in moments)
    assert len(moments) == len(jax.tree.leaves(now["params"]["lora"]))
    factors = now["params"]["lora"]
    assert set(factors) == {"text_encoder", "denoiser"}
    assert set(factors["text_encoder"]["block_0"]["attention"]) == {"q"}


def test_stopped_and_gone_on_with_is_never_stopped_wherever_the_old_run_went(command, words, old, tuned, tmp_path):
    here = f"--workdir={tmp_path / 'run'}"
    assert command(*words, here, "--config.train.steps=5")[0] == 0
    moved = old.rename(tmp_path / "elsewhere")
    try:
        code, out, _ = command(*words, here)
    finally:
        moved.rename(old)
    assert code == 0
    assert "going on from step 5" in out
    chex.assert_trees_all_equal(state_of(tmp_path / "run"), state_of(tuned))


def test_a_run_of_factors_draws_and_merged_they_draw_the_same(command, tuned, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    trained.export(tuned, tmp_path / "separate")
    trained.export(tuned, tmp_path / "merged", merge=True)
    stored = {name: load_params(tmp_path / name / "weights.safetensors") for name in ("separate", "merged")}
    assert stored["separate"].keys() == {"text_encoder", "denoiser", "lora"}
    assert stored["merged"].keys() == {"text_encoder", "denoiser"}
    code, _, err = command("sample", f"--workdir={tuned}", "--prompt=a red circle", f"--out={tmp_path / 'pictures'}")
    assert (code, err) == (0, "")

    model, shipped = trained.load(tuned), trained.load(None, "merged")
    assert (model.experiment.fixed, shipped.experiment.fixed) == (("denoiser", "text_encoder"), ())
    draw = drawing.make_drawing(model.experiment, model.config.sampling)
    silent = model.params | {"lora": jax.tree.map(np.zeros_like, model.params["lora"])}
    with_factors, without = (
        draw(params, ["a red circle"], seed=0).pictures.astype(int) for params in (model.params, silent)
    )
    plain = drawing.make_drawing(shipped.experiment, shipped.config.sampling)
    found = plain(shipped.params, ["a red circle"], seed=0).pictures.astype(int)
    assert np.abs(found - with_factors).max() <= 8
    assert np.abs(without - with_factors).max() > 40


def test_factors_alone_are_what_peft_reads(tuned, tmp_path):
    trained.export_lora(tuned, tmp_path)
    params = trained.load(tuned).params
    for part, names in (("text_encoder", {"tensor": t5_layout.tensor}), ("denoiser", {})):
        lora, alpha = load_lora(tmp_path / part, params[part], **names)
        assert alpha == 4
        chex.assert_trees_all_equal(lora, jax.tree.map(jnp.asarray, params["lora"][part]))


def test_a_run_without_factors_has_none_to_write_and_none_to_merge(old, tmp_path):
    with pytest.raises(ValueError, match="has no factors of LoRA"):
        trained.export_lora(old, tmp_path / "factors")
    assert not (tmp_path / "factors").exists()
    model = trained.load(old)
    assert trained.merged(model) is model


@pytest.fixture
def config(mini, monkeypatch):
    """The small config, as Python has it."""
    monkeypatch.syspath_prepend(mini.parents[2])
    spec = importlib.util.spec_from_file_location("mini", mini)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


def test_all_begins_where_the_averaged_parameters_were(config, old):
    """Also in the average itself, and in place of a text encoder that would be loaded; the optimizer is a new one."""
    experiment = build.build(config)
    experiment = experiment._replace(text=experiment.text._replace(load=lambda: pytest.fail("loaded")))
    drawn = placement.initial_state(experiment, jax.random.key(0))
    begun = trained.beginning(str(old), drawn.params)
    where = placement.placed(experiment, parallel.device_mesh(devices=jax.devices()[:1]))
    state = placement.first_state(experiment, where, 0, begun)
    expected = checkpoint.load_params(old)[0]
    chex.assert_trees_all_equal(state.params, expected)
    chex.assert_trees_all_equal(state.ema_params, expected)
    chex.assert_trees_all_equal(state.opt_state, drawn.opt_state)
    assert int(state.step) == 0
    pointers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((state.params, state.ema_params))]
    assert len(set(pointers)) == len(pointers)  # a donated buffer cannot be two leaves


def test_what_begins_with_a_run_of_factors_begins_with_them_merged(tuned, old):
    expected = trained.merged(trained.load(tuned)).params
    found = trained.beginning(str(tuned), trained.load(tuned).params)
    chex.assert_trees_all_equal(found, expected)
    changes = jax.tree.map(lambda a, b: np.abs(a - b).max(), found, checkpoint.load_params(old)[0])
    assert float(changes["text_encoder"]["block_0"]["attention"]["q"]["kernel"]) > 1e-3
    assert float(changes["text_encoder"]["block_0"]["attention"]["v"]["kernel"]) == 0


def test_shipped_weights_are_begun_with_by_their_name(old, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    trained.export(old, tmp_path / "shapes")
    expected = checkpoint.load_params(old)[0]
    found = trained.beginning("shapes", expected)
    chex.assert_trees_all_equal(found, jax.tree.map(lambda leaf: leaf.astype(np.float16).astype(leaf.dtype), expected))


def test_a_pretrained_text_encoder_is_adapted_beside_a_denoiser_from_nothing(command, mini, tmp_path):
    module = T5Encoder(tokenizers.BYT5_VOCAB, dim=16, d_kv=8, d_ff=16, heads=1, layers=1)
    one = jnp.zeros((1, 1), jnp.int32)
    params = jax.jit(module.init)(jax.random.key(5), one, one == 0)["params"]
    save_text_encoder(tmp_path / "encoder", TextEncoder(module, params, tokenizers.byt5()))
    told = dict(name="pretrained", folder=str(tmp_path / "encoder"))
    lines = f"""
    config.tokenizer = {told | {"max_length": 20}}
    config.text_encoder = {told}
    config.lora = dict(rank=2, alpha=2, where="text_encoder/")
    return config
"""
    (tmp_path / "config.py").write_text(mini.read_text().replace("    return config\n", lines))
    words = (f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / 'run'}", *QUICK)
    code, _, err = command("train", *words)
    assert (code, err) == (0, "")
    model = trained.load(tmp_path / "run")
    assert model.experiment.fixed == ("text_encoder",)
    chex.assert_trees_all_equal(model.params["text_encoder"], load_text_encoder(tmp_path / "encoder").params)
    assert set(model.params["lora"]) == {"text_encoder"}
    assert min(largest(model.params["lora"])) > 1e-4
    drawn = model.experiment.init(jax.random.key(0))["denoiser"]
    moved = largest(jax.tree.map(np.subtract, model.params["denoiser"], drawn))
    assert min(moved) > 0


def test_dry_run_tells_what_is_trained(command, words):
    code, out, err = command(*words, "--dry_run")
    assert (code, err) == (0, "")
    lines = [line.split(maxsplit=1) for line in out.partition("\n}\n")[2].splitlines() if line.startswith("  ")]
    counts = {what: int(number.replace(",", "")) for number, what in lines if "MiB" not in what}
    assert counts["of them trained"] == counts["lora"] == counts["lora.text_encoder"] + counts["lora.denoiser"]
    assert counts["parameters in all"] == counts["lora"] + counts["text_encoder"] + counts["denoiser"]


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (["lora.rank=2"], "config.lora: the denoiser and the text_encoder would begin from random numbers"),
        (["begin=nowhere"], "config.begin: nowhere is no run folder: it holds no config.json"),
        (["begin=OLD", "lora.rank=2", "lora.where=unet"], "config.lora: where='unet' is found in none of "),
        (["begin=OLD", "lora.rank=99"], "config.lora: rank 99 is above a side of "),
        (["begin=OLD", "lora.rank=2", "lora.alpha=0."], "config.lora: alpha is 0.0: use a positive number"),
        (["begin=OLD", "uncertainty=8"], "first uncertainty/out/kernel, which is missing and should be (8, 1)"),
        (["begin=OLD", "denoiser.channels=16"], "does not hold the parameters of the config that begins with it"),
    ],
)
def test_what_does_not_fit_is_one_line_and_leaves_nothing(command, mini, old, tmp_path, settings, line):
    words = [f"--config.{each.replace('OLD', str(old))}" for each in settings]
    code, _, err = command("train", f"--config={mini}", f"--workdir={tmp_path / 'run'}", *words)
    assert line in err
    assert (code, err.count("\n")) == (1, 1)
    assert not (tmp_path / "run").exists()


def test_a_run_of_code_that_is_not_trusted_is_not_begun_with(command, mini, trained, tmp_path):
    told = json.loads((trained / "config.json").read_text())
    (trained / "config.json").write_text(json.dumps(told | {"schedule": {"name": "os:system"}}))
    words = (f"--config={mini}", f"--config.begin={trained}", f"--workdir={tmp_path / 'run'}")
    code, _, err = command("train", *words)
    assert code == 1
    assert err.startswith(f"error: config.begin: the config of {trained} calls os:system")


def test_runs_of_before_go_on(command, mini, trained):
    told = json.loads((trained / "config.json").read_text())
    assert (told.pop("begin"), told.pop("lora")["rank"]) == ("", 0)
    (trained / "config.json").write_text(json.dumps(told))
    code, out, err = command("train", f"--config={mini}", f"--workdir={trained}")
    assert (code, err) == (0, "")
    assert "is trained: step 8 of 8" in out
