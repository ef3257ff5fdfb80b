"""A trained run of a very small model, made once, and the commands as a person types them."""

import json
import os
import shutil
from pathlib import Path

import jax
import pytest

from diffusion_jax import build, drawing, placement
from diffusion_jax import config as entries
from diffusion_jax.__main__ import main
from diffusion_jax.training import parallel

ROOT = Path(__file__).parents[2]
MINI = """
from experiments import tiny

def get_config():
    config = tiny.get_config()
    config.update(dict(batch_size=8, validation_size=11))
    config.tokenizer.max_length = 20
    config.text_encoder.update(dict(dim=16, d_kv=8, d_ff=16, heads=1, layers=1))
    config.denoiser.update(dict(channels=8, multipliers=(1,), self_attention=(), cross_attention=(4,), patch=4))
    config.denoiser.head_dim = 8
    config.optimizer.update(dict(learning_rate=3e-2, warmup_steps=2))
    config.loader.prefetch = 1
    config.train.update(dict(steps=8, log_every=2, validate_every=4, sample_every=5, save_every=3))
    config.sampling.update(dict(nfe=3, prompts=("a red circle", "two blue squares")))
    return config
"""


@pytest.fixture(scope="session")
def mini(tmp_path_factory):
    """The path of the small config."""
    path = tmp_path_factory.mktemp("config") / "mini.py"
    path.write_text(MINI)
    return path


def kept(function, key):
    """The function, called once for each key."""
    known = {}

    def call(*arguments, **settings):
        name = key(*arguments, **settings)
        if name not in known:
            known[name] = function(*arguments, **settings)
        return known[name]

    return call


def learned(config, data_dir=None):
    """What of a config goes into compiled programs; nothing that comes again where text is read from a disk."""
    told = json.dumps(
        {k: v for k, v in entries.as_json(config).items() if k not in ("train", "sampling", "loader", "data")}
    )
    return object() if '"cached": true' in told else told


TRACES = []  # an entry for each time that a training loss is traced: each is a compilation of its step


def counted(config, data_dir=None):
    """The experiment, whose loss leaves a mark when it is traced."""
    made = build_build(config, data_dir)
    return made._replace(loss=lambda *arguments: (TRACES.append(learned(config)), made.loss(*arguments))[1])


def guarded(train_step, mesh, shardings):
    """The compiled step, in which nothing may go between host and device unasked."""
    compiled = jit_parallel(train_step, mesh, shardings)

    def call(*arguments):
        with jax.transfer_guard("disallow"):
            return compiled(*arguments)

    call.lower, call.trace = compiled.lower, compiled.trace
    return call


build_build, jit_parallel = build.build, parallel.jit_parallel


@pytest.fixture(scope="session")
def one_device():
    """A function of a monkeypatch: runs are on one device, and what one run compiled the next of its config uses."""
    one = parallel.device_mesh(devices=jax.devices()[:1])
    replaced = [
        (parallel, "device_mesh", lambda **_: one),
        (parallel, "jit_parallel", guarded),
        (build, "build", kept(counted, learned)),
        (placement, "make_step", kept(placement.make_step, lambda config, *_: learned(config))),
        (
            drawing,
            "make_drawing",
            kept(
                drawing.make_drawing,
                lambda experiment, sampling, chunk=16, mesh=None: (id(experiment), str(sampling), chunk),
            ),
        ),
    ]

    def patched(patch):
        patch.syspath_prepend(ROOT)
        for module, name, value in replaced:
            patch.setattr(module, name, value)

    return patched


@pytest.fixture
def command(one_device, capsys, monkeypatch):
    """Runs a command line; returns its exit code, what it printed, and what it complained of."""

    def call(*words):
        try:
            code = main([str(word) for word in words])
        except SystemExit as leaving:
            code = leaving.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    one_device(monkeypatch)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return call


@pytest.fixture(scope="session")
def trained_once(one_device, mini, tmp_path_factory):
    """The folder of a run that has ended."""
    workdir = tmp_path_factory.mktemp("trained") / "run"
    before = len(TRACES)
    with pytest.MonkeyPatch.context() as patch:
        one_device(patch)
        assert main(["train", f"--config={mini}", f"--workdir={workdir}"]) == 0
    (workdir.parent / "traces").write_text(str(len(TRACES) - before))
    return workdir


@pytest.fixture
def trained(trained_once, tmp_path):
    """A copy of that folder which a test may change."""
    return Path(shutil.copytree(trained_once, tmp_path / "trained"))


@pytest.fixture(scope="session")
def alone():
    """The environment of a process of its own, with one device."""
    flags = os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=1"  # the last word counts
    return os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)}
