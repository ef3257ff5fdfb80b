"""launch/local: several processes here, joined, looked after, begun again, ended."""

import os
import signal
from pathlib import Path

import pytest

from tests.launch.conftest import wait_for

LOCAL = "launch/local"


def count(code):
    """A command that leaves a line in $FAKES/starts, then does what `code` says."""
    return ["bash", "-c", f'echo "$JAX_PROCESS_ID" >>"$FAKES/starts"; {code}']


def starts(machine):
    return len((machine.state / "starts").read_text().splitlines())


@pytest.mark.parametrize(
    ("about", "words"),
    [
        ("how many processes", []),
        ("N is '0'", ["0", "--", "true"]),
        ("N is 'two'", ["two", "--", "true"]),
        ("N is '010'", ["010", "--", "true"]),
        ("takes one number", ["2", "3", "--", "true"]),
        ("devices is '0'", ["2", "--devices=0", "--", "true"]),
        ("restarts is '-1'", ["2", "--restarts=-1", "--", "true"]),
        ("no flag --device", ["2", "--device", "4", "--", "true"]),
        ("nothing follows --", ["2", "--"]),
        ("no program no-such-program", ["2", "--", "no-such-program"]),
    ],
)
def test_wrong_words_are_one_line(refused, about, words):
    refused(about, LOCAL, *words)


def test_wrong_settings_are_one_line(machine, refused):
    machine.settings(TRAIN=None)
    refused("sets no TRAIN", LOCAL, "2")
    machine.settings(GRACE="soon")
    refused("GRACE is 'soon'", LOCAL, "2", "--", "true")
    refused("no file /nowhere", LOCAL, "2", "--", "true", LAUNCH_ENV="/nowhere")


def test_dry_run_prints_each_command_and_does_nothing(machine):
    result = machine.call(LOCAL, "--dry-run", "--devices=4", "2", "--", "train", "--names=('a b',)", XLA_FLAGS="")
    assert result.code == 0
    assert result.out.splitlines() == [
        "env -u DIFFUSION_JAX_CLUSTER JAX_COORDINATOR_ADDRESS=127.0.0.1:PORT JAX_NUM_PROCESSES=2 JAX_PROCESS_ID="
        f"{i} JAX_PLATFORMS=cpu XLA_FLAGS=--xla_force_host_platform_device_count=4 train '--names=('\\''a b'\\'',)'"
        for i in (0, 1)
    ]


def test_the_command_may_come_from_the_settings(machine):
    machine.settings(TRAIN="(train --workdir='my runs')")
    result = machine.call(LOCAL, "1", "--dry-run")
    alone = "env -u DIFFUSION_JAX_CLUSTER -u JAX_COORDINATOR_ADDRESS -u JAX_NUM_PROCESSES -u JAX_PROCESS_ID"
    assert result.out.startswith(f"{alone} 'XLA_FLAGS=--xla_gpu_")
    assert result.out.endswith(" train '--workdir=my runs'\n")


def test_processes_join_and_their_output_is_told_apart(machine, standin, tmp_path):
    result = machine.call(LOCAL, "2", "--devices=3", "--", *standin, tmp_path, DIFFUSION_JAX_CLUSTER="slurm")
    assert result.code == 0, result.err
    assert sorted(line for line in result.out.splitlines() if "gathered" in line) == [
        f"[{i}] process {i} of 2 on 6 devices gathered [1, 2]" for i in (0, 1)
    ]


def test_one_process_is_alone(machine):
    code = 'echo "group: ${JAX_COORDINATOR_ADDRESS-none} ${JAX_PROCESS_ID-none} $XLA_FLAGS"; echo words >&2'
    result = machine.call(LOCAL, "1", "--devices=2", "--", "bash", "-c", code, JAX_PROCESS_ID="7", XLA_FLAGS="--some")
    assert (result.code, result.err) == (0, "words\n")
    assert result.out == "group: none none --some --xla_force_host_platform_device_count=2\n"


def test_output_and_errors_stay_apart(machine):
    result = machine.call(LOCAL, "2", "--", "bash", "-c", "echo out; echo err >&2; printf last")
    assert sorted(result.out.replace("last[", "last\n[").split("\n")) == ["[0] last", "[0] out", "[1] last", "[1] out"]
    assert sorted(result.err.splitlines()) == ["[0] err", "[1] err"]


def test_a_killed_process_ends_the_others_and_all_begin_again(machine, standin, tmp_path):
    result = machine.call(LOCAL, "2", "--", *standin, tmp_path, "1:kill")
    assert result.code == 0, result.err
    assert "process 1 left with code 137" in result.err
    assert "code 137: starting again (1 of 2)" in result.err
    for i in (0, 1):
        assert (tmp_path / f"attempts.{i}").read_text() == "[1, 2]\n[1, 2]\n"


@pytest.mark.parametrize("code", [75, 143, 137, 134])
def test_what_starting_again_mends_is_tried_so_often(machine, code):
    result = machine.call(LOCAL, "1", "--", *count(f"exit {code}"))
    assert result.code == code
    assert starts(machine) == 3
    assert f"code {code}, and no more restarts (2): giving up" in result.err


@pytest.mark.parametrize("code", [1, 2, 130, 3])
def test_what_starting_again_does_not_mend_ends_it(machine, code):
    result = machine.call(LOCAL, "2", "--restarts=5", "--", *count(f"exit {code}"))
    assert result.code == code
    assert starts(machine) == 2


def test_an_error_counts_more_than_the_loss_that_it_causes(machine):
    machine.settings(GRACE="60")
    code = "if [[ $JAX_PROCESS_ID == 0 ]]; then exit 75; fi; sleep 0.5; exit 2"
    assert machine.call(LOCAL, "2", "--", *count(code)).code == 2
    assert starts(machine) == 2


def test_who_stays_after_a_failure_is_killed_after_the_grace(machine):
    code = 'trap "" TERM; if [[ $JAX_PROCESS_ID == 1 ]]; then exit 1; fi; sleep 300'
    result = machine.call(LOCAL, "3", "--", *count(code))
    assert result.code == 1
    assert "ending processes 0 2, which are still there 1 s later" in result.err


def test_who_follows_within_the_grace_is_not_killed(machine):
    machine.settings(GRACE="60")
    code = 'if [[ $JAX_PROCESS_ID == 1 ]]; then exit 1; fi; sleep 1; touch "$FAKES/followed"; exit 75'
    result = machine.call(LOCAL, "2", "--", *count(code))
    assert result.code == 1
    assert "ending" not in result.err
    assert (machine.state / "followed").exists()


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_reaches_everyone_once_and_ends_it(machine, sent, code):
    name = sent.name.removeprefix("SIG")
    script = (
        f'trap \'echo got {name} >>"$FAKES/got.$JAX_PROCESS_ID"; sleep 1; touch "$FAKES/saved.$JAX_PROCESS_ID"; '
        f'exit {code}\' {name}; touch "$FAKES/waits.$JAX_PROCESS_ID"; while true; do sleep 0.1; done'
    )
    process = machine.start(LOCAL, "2", "--", "bash", "-c", script)
    wait_for(*(machine.state / f"waits.{i}" for i in (0, 1)))
    os.killpg(process.pid, sent)  # as a terminal sends Ctrl-C: to the launcher and to all that share its group
    process.communicate(timeout=60)
    assert process.returncode == code
    for i in (0, 1):
        assert (machine.state / f"got.{i}").read_text() == f"got {name}\n"
        assert (machine.state / f"saved.{i}").exists()


def test_what_a_killed_process_had_started_goes_with_it(machine):
    script = 'sleep 300 & echo "$!" >"$FAKES/child"; kill -KILL $$'
    machine.call(LOCAL, "1", "--restarts=0", "--", "bash", "-c", script)
    status = Path("/proc", (machine.state / "child").read_text().strip(), "stat")
    assert not status.exists() or ") Z " in status.read_text()  # a zombie waits for whoever adopted it
