"""Which checkpoints stay."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as some

from diffusion_jax.training.retention import kept, read_metrics


@pytest.mark.parametrize(
    ("policy", "left"),
    [
        (dict(keep=1, keep_every=0, keep_best=0), {60}),
        (dict(keep=3, keep_every=0, keep_best=0), {40, 50, 60}),
        (dict(keep=1, keep_every=30, keep_best=0), {30, 60}),
        (dict(keep=1, keep_every=0, keep_best=1), {40, 60}),  # as good as 20, and newer
        (dict(keep=1, keep_every=0, keep_best=3), {20, 40, 50, 60}),
        (dict(keep=1, keep_every=0, keep_best=9), {10, 20, 40, 50, 60}),  # 30 is no number, 60 was not judged
    ],
)
def test_kept(policy, left):
    metrics = {7: 0.0, 10: 4.0, 20: 0.25, 30: math.nan, 40: 0.25, 50: 0.5}
    assert kept([10, 20, 30, 40, 50, 60], **policy, metrics=metrics) == left


@given(some.sets(some.integers(0, 99), min_size=1), some.integers(1, 4), some.integers(0, 9), some.integers(0, 3))
def test_the_newest_always_stays_and_what_was_dropped_is_not_missed_later(steps, keep, every, best):
    """Dropping as checkpoints come leaves what dropping at the end would leave."""
    metrics, now = {step: float((step * 37) % 11) for step in steps}, set()
    for step in sorted(steps):
        now = kept(now | {step}, keep, every, best, metrics)
        assert step in now
    assert now == kept(steps, keep, every, best, metrics)


def test_metrics_that_cannot_be_read_are_none(tmp_path):
    for step, text in enumerate(['{"value": 0.5}', '{"value"', "[]", '{"value": null}', "\xff"]):
        (tmp_path / str(step) / "metric").mkdir(parents=True)
        (tmp_path / str(step) / "metric" / "metadata").write_bytes(text.encode("latin-1"))
    assert read_metrics(tmp_path, range(6)) == {0: 0.5}
