"""Which steps are in a profile's files: read back from them, whatever way the training ends."""

import warnings

import jax
import jax.numpy as jnp
import pytest

from diffusion_jax.training.profiling import profiled, steps_of
from diffusion_jax.training.state import TrainState


@pytest.mark.parametrize(
    ("text", "begun", "steps"),
    [("10:15", 0, range(10, 15)), ("10:11", 99, range(10, 11)), ("5", 0, range(11, 16)), ("1", 500, range(511, 512))],
)
def test_the_steps_that_are_meant(text, begun, steps):
    assert steps_of(text, begun) == steps


@pytest.mark.parametrize("text", ["abc", "5:3", "5:5", "0", "0:4", "-2", "", ":", "1:2:3", "2.5", "²", " 5"])
def test_what_means_no_steps(text):
    with pytest.raises(ValueError, match=r"^--profile=.*: give a number of steps, as 5, or .* as 10:15$"):
        steps_of(text)


@jax.jit
def a_step(now, batch):
    return now._replace(step=now.step + 1), {"loss": jnp.tanh(batch["x"]).sum()}


def train(folder, steps, count, begun=0, fail_at=None):
    """So many steps, of which some are profiled; returns what was said."""
    said = []
    now, batch = TrainState(jnp.int32(begun), {}, {}, ()), {"x": jnp.ones(1000)}
    a_step(now, batch)
    with profiled(a_step, steps, folder, begun=begun, say=said.append) as take_step:
        for at in range(begun + 1, begun + count + 1):
            if at == fail_at:
                raise KeyError(at)
            now, metrics = take_step(now, batch)
            assert int(now.step) == at
            assert jnp.isfinite(metrics["loss"])
    return said


def seen(folder):
    """The steps that a profile names, and how many runs of the step's program are in it."""
    (path,) = folder.glob("plugins/profile/*/*.xplane.pb")
    steps, runs = [], set()
    with warnings.catch_warnings():  # of JAX's own classes, which have no __module__
        warnings.simplefilter("ignore", DeprecationWarning)
        for event in (
            e for p in jax.profiler.ProfileData.from_file(str(path)).planes for line in p.lines for e in line.events
        ):
            facts = dict(event.stats)
            steps += [facts["step_num"]] if event.name == "train" else []
            runs |= {facts["run_id"]} if facts.get("hlo_module") == "jit_a_step" else set()
    return steps, len(runs)


@pytest.mark.parametrize(
    ("steps", "count", "begun", "expected"),
    [
        (range(3, 6), 8, 0, [3, 4, 5]),
        (range(1, 2), 3, 0, [1]),
        (range(4, 9), 5, 0, [4, 5]),  # ends within them
        (range(3, 6), 4, 3, [4, 5]),  # goes on within them
        (range(102, 104), 6, 100, [102, 103]),
    ],
)
def test_these_steps_and_no_others_are_in_the_files(tmp_path, steps, count, begun, expected):
    said = train(tmp_path, steps, count, begun)
    assert seen(tmp_path) == (expected, len(expected))
    assert said == [
        f"profile of steps {expected[0]} to {expected[-1]}: tensorboard --logdir={tmp_path}, with xprof installed"
    ]


def test_a_training_that_fails_leaves_the_profile_and_its_error(tmp_path):
    with pytest.raises(KeyError, match="5"):
        train(tmp_path, range(3, 9), 8, fail_at=5)
    assert seen(tmp_path) == ([3, 4], 2)
    again = train(tmp_path / "again", range(1, 2), 1)  # the profiler is free
    assert again[0].startswith("profile of steps 1 to 1")


@pytest.mark.parametrize(
    ("begun", "count", "said"),
    [(9, 3, ["nothing is profiled: step 5 is over, training goes on from step 9"]), (0, 2, [])],
)
def test_steps_that_never_come_leave_nothing(tmp_path, begun, count, said):
    assert train(tmp_path, range(3, 6), count, begun) == said
    assert list(tmp_path.iterdir()) == []


def test_a_profile_that_cannot_be_written_is_said_and_stops_nothing(tmp_path):
    (tmp_path / "taken").write_text("a file")
    (said,) = train(tmp_path / "taken", range(2, 4), 5)
    assert said.startswith(f"no profile in {tmp_path / 'taken'}: ")
    assert "\n" not in said
    assert (tmp_path / "taken").read_text() == "a file"


def test_what_is_there_stays(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    train(tmp_path / "profile", range(1, 2), 1)
    train(tmp_path / "profile", range(5, 6), 1, begun=4)
    assert (tmp_path / "config.json").read_text() == "{}"
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "profile"}
