"""A bar for people at a terminal, lines for files."""

import io
import sys

import pytest

from diffusion_jax.training import progress


def test_in_a_pipe_it_is_lines(capsys):
    shown = progress.progress(total=1500, done=0, batch_size=64)
    for _ in range(50):
        shown.tick()
    shown.note(50, 0.51234, 290.0)
    shown.say("step 50: judged")
    shown.note(1500, 0.4, 290.0)
    shown.close()
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out.splitlines() == [
        "step 50/1500, loss 0.5123, 290 images/s, 0:05:20 to go",
        "step 50: judged",
        "step 1500/1500, loss 0.4000, 290 images/s, 0:00:00 to go",
    ]


def test_without_a_speed_there_is_no_guess(capsys):
    progress.progress(10, 0, 8).note(1, 1.0, 0.0)
    assert capsys.readouterr().out == "step 1/10, loss 1.0000, 0 images/s\n"


def test_on_a_terminal_it_is_a_bar(monkeypatch, capsys):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    shown = progress.progress(total=20, done=5, batch_size=64)
    for _ in range(15):
        shown.tick()
    shown.note(20, 0.51234, 290.0)
    shown.say("step 20: judged")
    shown.close()
    bar = terminal.getvalue().split("\r")[-1]
    assert "20/20" in bar
    assert "loss 0.5123, 290 images/s" in bar
    assert capsys.readouterr().out == "step 20: judged\n"


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00:00"), (3725.0, "1:02:05"), (90000.0, "1 day, 1:00:00")])
def test_duration(seconds, text):
    assert progress.duration(seconds) == text
