"""What the environment says of a group, and who has come; real groups are in tests/commands/test_processes.py."""

import os

import jax
import pytest

from diffusion_jax.training import processes
from diffusion_jax.training.processes import Group


@pytest.fixture
def environment(monkeypatch):
    """Sets just these variables of those that count."""

    def set_to(**variables):
        for name in list(os.environ):
            if name.startswith(("JAX_COORD", "JAX_NUM", "JAX_PROCESS", "SLURM", "DIFFUSION_JAX")):
                monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_to


TRIPLE = dict(JAX_COORDINATOR_ADDRESS="host:1", JAX_NUM_PROCESSES="4", JAX_PROCESS_ID="3")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        (TRIPLE, Group(4, 3, "host:1", None)),
        (dict.fromkeys(TRIPLE, ""), None),
        (dict(SLURM_PROCID="1", SLURM_NTASKS="2"), None),  # in an allocation, but not asked to join
        (dict(DIFFUSION_JAX_CLUSTER="slurm", SLURM_PROCID="1", SLURM_NTASKS="2"), Group(2, 1, None, "slurm")),
        (dict(DIFFUSION_JAX_CLUSTER="tpu"), Group(None, None, None, "tpu")),
    ],
)
def test_the_group_of_an_environment(environment, variables, expected):
    environment(**variables)
    assert processes.group() == expected


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (dict(JAX_NUM_PROCESSES="2"), "JAX_PROCESS_ID, JAX_COORDINATOR_ADDRESS is not set"),
        (TRIPLE | dict(JAX_PROCESS_ID="4"), "JAX_PROCESS_ID=4 is none of 0 to 3"),
        (TRIPLE | dict(JAX_NUM_PROCESSES="many"), "have to be numbers"),
        (dict(DIFFUSION_JAX_CLUSTER="cloud"), "'cloud': it is slurm or tpu"),
        (dict(DIFFUSION_JAX_CLUSTER="slurm"), "start it with srun"),
    ],
)
def test_an_environment_that_makes_no_sense(environment, variables, message):
    environment(**variables)
    with pytest.raises(ValueError, match=message):
        processes.group()


def test_alone_nothing_is_joined(environment, tmp_path):
    environment(**TRIPLE | dict(JAX_NUM_PROCESSES="1", JAX_PROCESS_ID="0"))
    processes.join(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_timeout_that_is_no_number(environment, tmp_path):
    environment(DIFFUSION_JAX_JOIN_TIMEOUT="soon", **TRIPLE)
    with pytest.raises(ValueError, match="DIFFUSION_JAX_JOIN_TIMEOUT is 'soon': it is a number of seconds"):
        processes.join(tmp_path)


def test_those_that_do_not_come_are_named(environment, tmp_path):
    environment(DIFFUSION_JAX_JOIN_TIMEOUT="0", **TRIPLE)
    with processes.present(tmp_path / "processes", Group(4, 1, None, None)), pytest.raises(processes.Lost) as error:
        processes.join(tmp_path)
    assert "of 4 processes, 2 did not come within 0 s: process 0, process 2;" in str(error.value)
    assert error.value.exit_code == 75


def test_one_that_has_left_is_not_there_any_more(tmp_path):
    with processes.present(tmp_path, Group(2, 0, None, None)):
        pass
    with processes.present(tmp_path, Group(2, 1, None, None)) as absent:
        [missing] = absent()
        assert missing.startswith("process 0 (last time on ")
        with processes.present(tmp_path, Group(2, 0, None, None)):
            assert absent() == []


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (jax.errors.JaxRuntimeError("UNKNOWN: Gloo AllGather failed"), True),
        (ValueError("UNKNOWN: Gloo AllGather failed: Connection reset by peer"), True),  # as jit raises it at times
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"), False),
        (ValueError("config.schedule: the name is UNKNOWN: what is it?"), False),
        (None, False),
    ],
)
def test_what_says_that_another_process_is_gone(monkeypatch, error, expected):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    outer = OSError("saving failed")
    outer.__cause__ = error
    assert processes.lost(error) == processes.lost(outer) == expected
    monkeypatch.setattr(jax, "process_count", lambda: 1)
    assert not processes.lost(error)
