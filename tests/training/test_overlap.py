"""Checkpoints are written while training goes on: the loop does not wait for the disk, and the state that is written
is that of its step, though the next step has its memory."""

import threading

import chex
import jax
import numpy as np
import pytest

from diffusion_jax.training import checkpoint, checkpoint_files, loop


@pytest.fixture
def slow_disk(monkeypatch):
    """Writing does not end before this event: it stands after all files, where the digests are made.

    If the loop waited for it, nobody would ever set it: the writing goes on after a minute, and the tests fail.
    """
    free, digest = threading.Event(), checkpoint_files.digest

    def held(path):
        assert free.wait(60), "the loop waited for the disk"
        return digest(path)

    monkeypatch.setattr(checkpoint_files, "digest", held)
    yield free
    free.set()


@pytest.fixture
def checkpoints(tmp_path):
    opened = checkpoint.open_checkpoints(tmp_path)
    yield opened
    checkpoint.close(opened)


def test_saving_returns_before_anything_is_whole_and_steps_go_on(toy, checkpoints, slow_disk):
    """Saved at step 2; steps 3 to 6 are done before the disk is."""
    update = jax.jit(toy.train_step, donate_argnums=0)
    key, batches, events, states = jax.random.key(0), toy.batches(), [], {}

    def step(now, batch):
        now, metrics = update(now, batch, key)
        events.append(("step", int(now.step)))
        states[int(now.step)] = jax.device_get(now)
        return now, metrics

    def save(now):
        checkpoint.save(checkpoints, now, {"place": 2}, {})
        events.append(("saved", int(now.step), checkpoint_files.steps_in(checkpoints.folder)))

    loop.train(
        toy.state(),
        step,
        batches,
        steps=6,
        every=[(2, lambda now: save(now) if int(now.step) == 2 else None)],
        log=lambda *_: None,
        log_every=3,
        batch_size=8,
    )
    assert not slow_disk.is_set()
    assert events == [("step", 1), ("step", 2), ("saved", 2, []), *(("step", n) for n in (3, 4, 5, 6))]
    slow_disk.set()
    checkpoint.finish(checkpoints)
    assert checkpoint_files.steps_in(checkpoints.folder) == [2]

    restored, data = checkpoint.restore(checkpoints, toy.state())
    chex.assert_trees_all_equal(jax.device_get(restored), states[2])
    assert data == {"place": 2}
    assert not np.array_equal(restored.params["scale"], states[6].params["scale"])


def test_a_second_save_waits_for_the_first(toy, checkpoints, slow_disk):
    """So that never more than two states are in memory, however slow the disk is."""
    first = toy.state()
    second = first._replace(step=first.step + 1)
    checkpoint.save(checkpoints, first, {}, {})
    seen = []

    def save():
        checkpoint.save(checkpoints, second, {}, {})
        seen.append(checkpoint_files.steps_in(checkpoints.folder))

    other = threading.Thread(target=save)
    other.start()
    assert (seen, checkpoint_files.steps_in(checkpoints.folder)) == ([], [])  # neither is whole
    slow_disk.set()
    other.join()
    assert 0 in seen[0]  # the first was, when the second was begun
    checkpoint.finish(checkpoints)
    assert sorted(checkpoint_files.steps_in(checkpoints.folder)) == [0, 1]
