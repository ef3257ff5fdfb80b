"""launch/tpu/* under a program that pretends to be gcloud: what that hears, and what becomes of a preempted TPU."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.launch.conftest import wait_for

ROOT = Path(__file__).parents[2]
PLACE = ["--project=my-project", "--zone=my-zone"]
EVERYWHERE = [*PLACE, "--quiet", "--node=all", "--worker=all", "--batch-size=all"]
QUEUE = ["compute", "tpus", "queued-resources"]
CREATE = [
    *QUEUE, "create", "trial", *PLACE, "--accelerator-type=v5litepod-16", "--runtime-version=v2-alpha-tpuv5-lite",
]  # fmt: skip


@pytest.fixture
def tpu(machine):
    """Sets the TPU's state by hand: `tpu("ACTIVE")`; with set_up, its machines have the code."""

    def become(state, set_up=True, machines=2):
        (machine.state / "tpu.json").write_text(json.dumps({"state": state, "machines": machines}))
        for i in range(machines if set_up else 0):
            (machine.state / f"machine{i}" / "diffusion_jax").mkdir(parents=True)
            (machine.state / f"machine{i}" / "diffusion_jax" / "launch").symlink_to(ROOT / "launch")

    return become


def asked(machine):
    """The verbs that gcloud was called with, looks at the state left out."""
    return [call[3] for call in machine.calls("gcloud") if call[3] != "describe"]


def test_dry_runs_print_what_gcloud_would_hear(machine):
    lines = {verb: machine.call(f"launch/tpu/{verb}", "--dry-run") for verb in ("create", "setup", "run", "delete")}
    assert all(result.code == 0 for result in lines.values())
    assert lines["create"].out == " ".join(["gcloud", *CREATE, "--node-id=trial", "--spot", "--async"]) + "\n"
    assert lines["delete"].out == " ".join(["gcloud", *QUEUE, "delete", "trial", *PLACE, "--force", "--quiet"]) + "\n"
    pack, copy, unpack = lines["setup"].out.splitlines()
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    assert pack.startswith(f"git -C {ROOT} archive --output=")
    assert pack.endswith(f"/code.tar.gz {head}")
    assert copy.endswith(" ".join(["/code.tar.gz", "trial:diffusion_jax.tar.gz", *EVERYWHERE]))
    everyone = " ".join(["gcloud", *QUEUE, "ssh", "trial", *EVERYWHERE])
    assert unpack.startswith(f"{everyone} '--command=rm -rf diffusion_jax ")
    assert "touch was-set-up" in unpack
    assert lines["run"].out.startswith(f"{everyone} '--command=cd diffusion_jax ")
    assert lines["run"].out.endswith(
        "PATH=$PWD/.venv/bin:$PATH DIFFUSION_JAX_CLUSTER=tpu "
        "launch/process --alone=../diffusion_jax.lock -- train-nothing'\n"
    )
    assert not machine.calls("gcloud")


def test_several_slices_are_nodes_of_one_name(machine):
    machine.settings(SLICES="4", TPU_FLAGS="(--reserved)")
    out = machine.call("launch/tpu/create", "--dry-run").out
    assert out == " ".join(["gcloud", *CREATE, "--node-count=4", "--node-prefix=trial", "--reserved", "--async"]) + "\n"


@pytest.mark.parametrize("verb", ["create", "setup", "run", "delete"])
def test_wrong_settings_and_words_are_one_line(machine, refused, verb):
    refused("takes no word now", f"launch/tpu/{verb}", "now")
    machine.settings(SLICES="0")
    refused("SLICES is '0'", f"launch/tpu/{verb}")
    machine.settings(SLICES="1", PROJECT=None, ZONE=None)
    refused("sets no PROJECT ZONE", f"launch/tpu/{verb}")
    machine.settings(PROJECT="p", ZONE="z")
    (machine.programs / "gcloud").unlink()
    refused("no program gcloud", f"launch/tpu/{verb}")


def test_no_such_commit_is_one_line(machine):
    machine.settings(REVISION="no-such-branch")
    result = machine.call("launch/tpu/setup")
    assert (result.code, result.out) == (2, "")
    assert result.err == f"error: REVISION is no-such-branch: no commit of {ROOT}\n"


def test_create_waits_until_it_is_there_and_delete_until_it_is_gone(machine):
    result = machine.call("launch/tpu/create")
    assert result.code == 0, result.err
    for state in ("WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"):
        assert f"launch: trial: {state}\n" in result.err
    assert machine.call("launch/tpu/create").code == 0  # once more: it is there
    assert asked(machine) == ["create"]
    assert machine.call("launch/tpu/delete").code == 0
    assert asked(machine) == ["create", "delete"]
    assert not (machine.state / "tpu.json").exists()


def test_a_request_that_failed_is_told(machine, tpu):
    tpu("FAILED")
    result = machine.call("launch/tpu/create")
    assert result.code == 2
    assert "error: trial is FAILED: launch/tpu/delete, then launch/tpu/create" in result.err


def test_gcloud_that_cannot_tell_the_state_is_told(machine):
    (machine.programs / "gcloud").write_text("#!/bin/sh\necho 'ERROR: you have no account' >&2\nexit 1\n")
    result = machine.call("launch/tpu/run")
    assert result.code == 2
    assert result.err == "error: gcloud tells no state of trial: ERROR: you have no account\n"


def test_setup_brings_the_code_to_every_machine(machine, tpu):
    tpu("ACTIVE", set_up=False)
    result = machine.call("launch/tpu/setup")
    assert result.code == 0, result.err
    for i in (0, 1):
        folder = machine.state / f"machine{i}" / "diffusion_jax"
        assert (folder / "was-set-up").exists()
        assert (folder / "launch" / "process").stat().st_mode & 0o100


def test_machines_without_code_are_told(machine, tpu):
    tpu("ACTIVE", set_up=False)
    result = machine.call("launch/tpu/run")
    assert result.code == 2
    assert "error: this machine has no code: launch/tpu/setup brings it" in result.out


def test_machines_join_and_a_lost_process_begins_again(machine, tpu, standin, tmp_path):
    tpu("ACTIVE")
    result = machine.call("launch/tpu/run", "--", *standin, tmp_path, "75")
    assert result.code == 0, result.out + result.err
    assert "code 75: starting again (1 of 2)" in result.err
    for i in (0, 1):
        assert result.out.count(f"process {i} of 2 on 2 devices gathered [1, 2]") == 2
    assert asked(machine) == ["ssh", "ssh"]


@pytest.mark.parametrize(
    ("script", "code", "tries"),
    [
        ("exit 75", 75, 3),
        ("if [[ $MACHINE == 1 ]]; then exit 2; fi; exit 75", 2, 1),
        ("if [[ $MACHINE == 0 ]]; then exit 1; fi; exit 134", 1, 1),
    ],
)
def test_the_code_decides(machine, tpu, script, code, tries):
    tpu("ACTIVE")
    result = machine.call("launch/tpu/run", "--", "bash", "-c", script)
    assert result.code == code, result.out + result.err
    assert asked(machine) == ["ssh"] * tries


def test_a_preempted_tpu_is_asked_for_again_set_up_and_gone_on_with(machine, tpu):
    tpu("ACTIVE")
    (machine.state / "fate").write_text("taken")
    script = (
        "if [[ -e $FAKES/once ]]; then exit 0; fi; "
        'if [[ $MACHINE == 1 ]]; then sleep 1; touch "$FAKES/once" "$FAKES/runs"; fi; sleep 300'
    )
    result = machine.call("launch/tpu/run", "--", "bash", "-c", script)
    assert result.code == 0, result.out + result.err
    assert "gcloud left with code 255, and not every process told its own" in result.err
    assert "trial: SUSPENDED" in result.err
    assert asked(machine) == ["ssh", "delete", "create", "scp", "ssh", "ssh"]
    assert all((machine.state / f"machine{i}" / "diffusion_jax" / "was-set-up").exists() for i in (0, 1))


def test_from_nothing_run_makes_all(machine):
    result = machine.call("launch/tpu/run", "--", "true")
    assert result.code == 0, result.out + result.err
    assert asked(machine) == ["create", "scp", "ssh", "ssh"]


SAVES = (
    "trap 'echo got >>\"$FAKES/got.$MACHINE\"; sleep 1; exit 143' TERM; "
    'touch "$FAKES/waits.$MACHINE"; while true; do sleep 0.1; done'
)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_asks_all_machines_to_save_and_leave(machine, tpu, sent):
    tpu("ACTIVE")
    process = machine.start("launch/tpu/run", "--", "bash", "-c", SAVES)
    wait_for(*(machine.state / f"waits.{i}" for i in (0, 1)))
    os.killpg(process.pid, sent)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143, out + err
    assert "asking all processes to save and leave" in err
    assert asked(machine) == ["ssh", "ssh"]
    for i in (0, 1):
        assert (machine.state / f"got.{i}").read_text() == "got\n"


def test_what_a_lost_connection_left_running_leaves_first(machine, tpu):
    tpu("ACTIVE", machines=1)
    lost = machine.start("launch/tpu/run", "--", "bash", "-c", SAVES)
    wait_for(machine.state / "waits.0")
    lost.kill()  # the person's end of the connection; the machine's end runs on
    result = machine.call("launch/tpu/run", "--", "true")
    assert result.code == 0, result.out + result.err
    assert "which runs here, to leave" in result.out
    assert (machine.state / "got.0").read_text() == "got\n"
