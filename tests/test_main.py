"""The front door: what a user reads, and the exit code, for right and wrong command lines."""

import json
import os
import subprocess
import sys
import types

import pytest
from absl import flags
from ml_collections import config_flags

from diffusion_jax import __main__ as entry

CONFIG = """
from ml_collections import ConfigDict
def get_config():
    return ConfigDict({"batch_size": 4, "optimizer": ConfigDict({"rate": 0.1})})
"""


def raised(error, module):
    """An error that seems to come out of a line of `module`."""
    scope = {"__name__": module, "error": error}
    exec("def fail(): raise error", scope)
    return scope["fail"]


@pytest.fixture
def verb(monkeypatch, tmp_path):
    """Makes `demo` a verb whose `run` is the given function; returns a caller of main."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.py").write_text(CONFIG)

    def define_flags(values):
        config_flags.DEFINE_config_file("config", None, "A config.", flag_values=values)
        flags.DEFINE_string("workdir", None, "A folder.", flag_values=values)
        flags.DEFINE_boolean("dry_run", False, "Stop early.", flag_values=values)
        flags.DEFINE_multi_string("prompt", [], "A sentence.", flag_values=values)
        flags.mark_flag_as_required("workdir", flag_values=values)

    def with_run(run):
        module = types.ModuleType("diffusion_jax.commands.demo", "Shows something.\n\n  diffusion-jax demo --workdir=a")
        module.define_flags, module.run = define_flags, run
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(entry, "verbs", lambda: {"demo": "Shows something."})
        return lambda *words: entry.main(["demo", *words])

    return with_run


def test_runs_again_and_again_with_fresh_flags(verb):
    seen = []
    call = verb(lambda args, *words: seen.append((args.workdir, args.prompt, words)))
    assert call("build", "--workdir=a", "--prompt=x", "--prompt", "y", "emoji") == 0
    assert call("--workdir=b") == 0
    assert seen == [("a", ["x", "y"], ("build", "emoji")), ("b", [], ())]


def test_config_overrides_reach_the_verb(verb):
    seen = []
    call = verb(lambda args: seen.append(json.loads(args.config.to_json())))
    assert call("--workdir=a", "--config=config.py", "--config.batch_size=8", "--config.optimizer.rate=1") == 0
    assert seen == [{"batch_size": 8, "optimizer": {"rate": 1.0}}]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--workdri=a"], "Unknown command line flag 'workdri'. Did you mean: workdir ?"),
        ([], "--workdir is required"),
        (["--workdir=a", "word"], "wrong words ['word']"),
        (["--workdir=a", "--config=nowhere.py"], "no config file nowhere.py"),
        (["--workdir=a", "--config=."], "config . cannot be read"),
        (["--workdir=a", "--config=config.py", "--config.batchsize=1"], "no entry batchsize: did you mean batch_size?"),
        (["--workdir=a", "--config=config.py", "--config.optimizer.rat=1"], "no entry rat: did you mean rate?"),
        (["--workdir=a", "--config=config.py", "--config.entirely=1"], "no entry entirely: --dry_run prints"),
        (
            ["--workdir=a", "--config=config.py", "--config.batch_size=many"],
            "--config.batch_size=many: invalid literal",
        ),
        (["--workdir=a", "--config=config.py", "--config.optimizer=3"], "--config.optimizer=3"),
    ],
)
def test_wrong_flags_are_one_line_and_exit_2(verb, capsys, words, line):
    def run(args):
        raise AssertionError("must not run")

    assert verb(run)(*words) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert line in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "fail",
    [
        raised(ValueError("batch_size 3 does not divide"), "diffusion_jax.build"),
        raised(ValueError("batch_size 3 does not divide"), "experiments.ablations.mine"),
        raised(FileNotFoundError("batch_size 3 does not divide"), "numpy"),
    ],
)
def test_expected_errors_are_one_line_and_exit_1(verb, capsys, fail):
    assert verb(lambda args: fail())("--workdir=a") == 1
    assert capsys.readouterr().err == "error: batch_size 3 does not divide\n"


def test_unknown_entry_of_a_config_met_while_running(verb, capsys):
    assert verb(lambda args: args.config.batchsize)("--workdir=a", "--config=config.py") == 1
    assert capsys.readouterr().err == "error: the config has no entry batchsize: did you mean batch_size?\n"


@pytest.mark.parametrize(
    "fail",
    [
        raised(ValueError("operands could not be broadcast"), "jax._src.numpy"),
        raised(KeyError("x"), "diffusion_jax.build"),
        raised(TypeError("x"), "diffusion_jax.build"),
    ],
)
def test_bugs_keep_their_traceback(verb, fail):
    with pytest.raises((ValueError, KeyError, TypeError)):
        verb(lambda args: fail())("--workdir=a")


def test_traceback_on_demand(verb, capsys, monkeypatch):
    monkeypatch.setenv("DIFFUSION_JAX_TRACEBACK", "1")
    assert verb(lambda args: raised(ValueError("no"), "diffusion_jax.x")())("--workdir=a") == 1
    assert "Traceback" in capsys.readouterr().err


def test_interrupt_is_130(verb, capsys):
    assert verb(lambda args: raised(KeyboardInterrupt(), "diffusion_jax.x")())("--workdir=a") == 130
    assert capsys.readouterr().err.strip() == "interrupted"


def test_help_shows_the_docstring_and_own_flags_only(verb, capsys):
    assert verb(lambda args: None)("--help") == 0
    out = capsys.readouterr().out
    assert out.startswith("Shows something.")
    assert "--prompt=" in out
    assert "--dry_run\n" in out
    assert "verbosity" not in out


def test_help_after_two_dashes_is_a_word(verb):
    seen = []
    assert verb(lambda args, *words: seen.append(words))("--workdir=a", "--", "--help") == 0
    assert seen == [("--help",)]


@pytest.mark.parametrize(
    ("argv", "code", "where", "text"),
    [
        ([], 2, "out", "doctor"),
        (["--help"], 0, "out", "doctor"),
        (["--version"], 0, "out", "."),
        (["doctro"], 2, "err", "did you mean doctor?"),
        (["../doctor"], 2, "err", "no verb ../doctor"),
        (["qqq"], 2, "err", "no verb qqq\n"),
    ],
)
def test_the_listing(capsys, argv, code, where, text):
    assert entry.main(argv) == code
    assert text in getattr(capsys.readouterr(), where)


def test_listing_has_a_line_for_each_verb():
    for verb, line in entry.verbs().items():
        assert line, f"{verb} has no docstring"
        assert line.endswith("."), f"{verb}: {line}"


def test_the_listing_imports_no_command_and_no_jax():
    code = "import sys; from diffusion_jax.__main__ import main; main(['--help']); sys.exit('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    assert "diffusion-jax VERB" in done.stdout


def test_a_closed_pipe_is_quiet(monkeypatch, verb):
    kept = os.dup(1)
    try:
        assert verb(lambda args: raised(BrokenPipeError(), "diffusion_jax.x")())("--workdir=a") == 141
    finally:
        os.dup2(kept, 1)
        os.close(kept)
