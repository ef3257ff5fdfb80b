"""Leaving after a step when asked to, of one process; of several, see test_processes.py."""

import signal

import pytest

from diffusion_jax.training.leaving import leaving_politely


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noticed_after_the_step(number):
    before = signal.getsignal(number)
    with leaving_politely() as leave:
        assert not leave.asked(5)
        signal.raise_signal(number)
        assert leave.asked(6)
    assert leave.code() == 128 + number
    assert signal.getsignal(number) == before


def test_a_second_ctrl_c_interrupts_and_a_second_sigterm_does_not():
    with leaving_politely() as leave:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert leave.code() == 128 + signal.SIGTERM  # the first one
