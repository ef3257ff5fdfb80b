"""The loop: when hooks run, what is logged, how it leaves, and that a state gone bad is shown to nobody."""

from types import SimpleNamespace

import numpy as np
import pytest

from diffusion_jax.training import loop
from diffusion_jax.training.state import TrainState


def counted(step):
    """All that the loop needs to know of a state."""
    return TrainState(step, {}, {}, ())


def run(steps=10, start=0, every=(), log_every=4, loss=lambda step: float(step), **settings):
    """A training whose loss at step s is loss(s); returns the last state and the log."""
    logged = []

    def take_step(now, batch):
        assert batch["number"] == now.step  # one batch for each step, in order
        return counted(now.step + 1), {"loss": np.float32(loss(now.step + 1))}

    last = loop.train(
        counted(start),
        take_step,
        iter({"number": i} for i in range(start, 10**6)),
        steps=steps,
        every=list(every),
        log=lambda step, values: logged.append((step, values)),
        log_every=log_every,
        batch_size=8,
        **settings,
    )
    return last, logged


def test_steps_until_the_end_and_logs_means():
    ticks = []
    last, logged = run(steps=10, tick=ticks.append)
    assert last.step == 10
    assert ticks == list(range(1, 11))
    assert [(step, values["loss"]) for step, values in logged] == [(4, 2.5), (8, 6.5), (10, 9.5)]
    assert all(set(values) == {"loss", "images_per_second", "data_wait"} for _, values in logged)


def test_goes_on_where_the_state_stands():
    last, logged = run(start=6, steps=9)
    assert last.step == 9
    assert [(step, values["loss"]) for step, values in logged] == [(8, 7.5), (9, 9.0)]


def test_nothing_to_do():
    assert run(start=10, steps=10) == (counted(10), [])


def test_hooks_run_at_their_steps_in_their_order():
    seen = []
    every = [
        (3, lambda now: seen.append(("a", now.step))),
        (0, lambda now: seen.append("never")),
        (2, lambda now: seen.append(("b", now.step))),
    ]
    run(steps=7, every=every)
    assert seen == [("b", 2), ("a", 3), ("b", 4), ("a", 6), ("b", 6)]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize(("at", "n"), [(1, 1), (5, 5), (5, 3), (10, 0), (9, 10)])
def test_the_first_bad_loss_ends_it_before_any_hook_sees_that_state(bad, at, n):
    seen = []
    with pytest.raises(loop.Diverged, match=f"^step {at}: loss is not finite$"):
        run(loss=lambda step: bad if step == at else 0.0, every=[(n, lambda now: seen.append(now.step))], log_every=100)
    assert all(step < at for step in seen)


@pytest.fixture
def clock(monkeypatch):
    """The loop's clock stands still but when it is told that seconds pass: how fast this machine is decides nothing."""
    now = [0.0]

    def passes(seconds):
        now[0] += seconds

    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    return passes


def test_hooks_and_the_first_step_are_not_timed(clock):
    def slow_first(step):
        clock(5.0 if step == 1 else 0.1)
        return 0.0

    _, logged = run(steps=8, loss=slow_first, every=[(2, lambda now: clock(3.0))])
    assert [values["images_per_second"] for _, values in logged] == pytest.approx([8 / 0.1, 8 / 0.1])


def test_waiting_for_data_is_measured(clock):
    def slow():
        for number in range(10):
            clock(0.3)
            yield {"number": number}

    def take_step(now, batch):
        clock(0.1)
        return counted(now.step + 1), {"loss": np.float32(0)}

    logged = []
    loop.train(
        counted(0),
        take_step,
        slow(),
        steps=6,
        every=[],
        log=lambda step, values: logged.append(values["data_wait"]),
        log_every=3,
        batch_size=1,
    )
    assert logged == pytest.approx([0.75, 0.75])


def test_asked_to_leave_it_ends_after_the_step_and_what_was_measured_is_logged():
    last, logged = run(steps=100, leave=lambda step: step == 6)
    assert last.step == 6
    assert [(step, values["loss"]) for step, values in logged] == [(4, 2.5), (6, 5.5)]


def test_metrics_are_read_one_step_late():
    """So the device has work while the host reads: the numbers of a step are taken after the next one has begun."""
    events = []

    class Metric:
        def __init__(self, step):
            self.step = step

        def __float__(self):
            events.append(("read", self.step))
            return 0.0

    def take_step(now, batch):
        events.append(("begun", now.step + 1))
        return counted(now.step + 1), {"loss": Metric(now.step + 1)}

    loop.train(
        counted(0),
        take_step,
        iter([{}] * 4),
        steps=4,
        every=[],
        log=lambda *_: None,
        log_every=4,
        batch_size=1,
    )
    order = [("begun", 1), ("read", 1), ("begun", 2), ("begun", 3), ("read", 2), ("begun", 4), ("read", 3), ("read", 4)]
    assert events == order
