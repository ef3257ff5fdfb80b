"""How a run is handed to its process, and signals with it."""

import os
import signal
import subprocess
import sys

import pytest
from ml_collections import ConfigDict
from ml_collections.config_flags import config_flags

from diffusion_jax.sweeps import board, local, plan, standings
from diffusion_jax.training import run_folder


@pytest.fixture
def run(sweep_file, tmp_path):
    return plan.read(sweep_file(), 3, None, tmp_path / "sweeps").runs[-1]


def test_the_process_gets_the_config_as_it_is(run):
    with local.open_log(run):
        pass
    read = config_flags._LoadConfigModule("handed_over", str(run.folder / "config.py")).get_config()
    assert isinstance(read, ConfigDict)
    assert read.to_dict() == run.config.to_dict()
    assert read.seed == 2
    assert isinstance(read.denoiser.multipliers, tuple)
    assert plan.digest(read) == run.digest


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1: object()}])
def test_what_cannot_be_written_down_is_refused(run, value):
    run.config.label = ConfigDict() if value is None else None
    with run.config.ignore_type():
        run.config.label = value
    with pytest.raises(ValueError, match="arm fast: its config holds what cannot be written down"):
        local.config_file(run)


def test_the_last_line_is_one_with_something_in_it(tmp_path):
    log = tmp_path / "log.txt"
    assert board.last_line(log) == ""
    for text, line in ((b"", ""), (b"a\nerror: b\n\n  \n", "error: b"), (b"\xff\n", "\ufffd")):
        log.write_bytes(text)
        assert board.last_line(log) == line


def test_a_run_that_another_process_trains_is_waited_for(run, monkeypatch):
    monkeypatch.setattr(local, "EVERY", 0.01)
    monkeypatch.setattr(local, "command", lambda run, data_dir: [sys.executable, "-c", f"print({data_dir!r})"])
    assert local.free(run)
    other, looks = run_folder.lock(run.folder), []

    def look():
        looks.append(local.free(run))
        if len(looks) == 3:
            assert not (run.folder / "log.txt").exists()
            other.close()

    assert local.train([run], "pictures", [], [], look) == 0
    assert looks[:4] in ([False] * 3, [False] * 3 + [True])
    assert board.last_line(run.folder / "log.txt") == "pictures"


def test_a_folder_that_cannot_be_written_is_no_reason_to_wait(run):
    (run.folder / "lock").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        local.free(run)


def test_asked_to_leave_while_another_process_trains_nothing_is_begun(run):
    run.folder.mkdir(parents=True)
    with run_folder.lock(run.folder):
        code = local.train([run], "data", [], [signal.SIGTERM], lambda: None)
    assert code is None
    left = board.at_the_end(standings.Standing(run, "running", code=code), asked=True)
    assert (left.state, left.code, left.said) == ("left", None, "")
    assert not (run.folder / "log.txt").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_are_passed_on_once_and_handlers_put_back(number, tmp_path):
    before = signal.getsignal(number)
    wait = f"import signal, sys; print(signal.sigwait([{int(number)}]), flush=True); sys.exit(7)"
    block = f"import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [{int(number)}]); print('here', flush=True); "
    with open(tmp_path / "log", "wb") as log, local.passing_on() as (children, received):
        words = local.apart(log) | dict(stdout=subprocess.PIPE)
        with subprocess.Popen([sys.executable, "-c", block + wait], **words) as child:
            children.append(child)
            assert child.stdout.readline() == b"here\n"
            assert os.getsid(child.pid) == child.pid  # the terminal's Ctrl-C does not reach it by itself
            os.kill(os.getpid(), number)
            assert child.stdout.readline() == f"{int(number)}\n".encode()
            child.wait()
        assert child.returncode == 7
        os.kill(os.getpid(), number)  # it has ended: nothing to pass on to, and nothing raised
        assert received == [number, number]
    assert signal.getsignal(number) == before


def test_runs_side_by_side_and_arms_that_share_a_training_take_turns(sweep_file, tmp_path, monkeypatch, capfd):
    """Two at once are met by two, and no folder ever by two; the second arm of a folder finds it done."""
    monkeypatch.setattr(local, "EVERY", 0.01)
    planned = plan.read(
        sweep_file('add("a", sampling=dict(nfe=4)), add("b", sampling=dict(nfe=9)), add("c", ema_decay=0.5)'),
        2, None, tmp_path / "sweeps",
    )  # fmt: skip
    code = (
        "import pathlib, sys, time; home = pathlib.Path(sys.argv[1]); here = home / 'here'\n"
        "here.touch(exist_ok=False); "
        "others = home.parent.parent; end = time.monotonic() + 60\n"
        "while len(list(others.glob('*/*/here'))) + len(list(others.glob('*/*/gone'))) < 2: "
        "time.sleep(0.01); assert time.monotonic() < end\n"
        "(home / 'gone').touch(); here.unlink(); done = home / 'checkpoints' / '6'; done.mkdir(parents=True); "
        "(done / '_CHECKPOINT_METADATA').write_text('{}')"
    )
    monkeypatch.setattr(local, "command", lambda run, data_dir: [sys.executable, "-c", code, str(run.folder)])
    monkeypatch.setattr(local.measuring, "in_a_process", lambda *_: 0)
    planned.folder.mkdir(parents=True)
    assert local.run_all(planned, "data", at_once=2) == 0
    out = capfd.readouterr().out
    assert out.count(": begins") == 4  # 2 seeds x 2 trainings
    assert out.endswith("3 arms x 2 seeds in " + str(planned.folder) + ": 6 done\n")
