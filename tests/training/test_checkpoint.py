"""What is on the disk after a kill, a full disk, a bad sector or somebody else's files; and that loading is exact."""

import json
import re
import shutil
from contextlib import contextmanager

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.training import checkpoint, checkpoint_files, parallel, state


@contextmanager
def opened(run, **settings):
    checkpoints = checkpoint.open_checkpoints(run, **settings)
    try:
        yield checkpoints
    finally:
        checkpoint.close(checkpoints)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A run folder with the checkpoints of steps 1 and 2, and their states."""
    run = tmp_path_factory.mktemp("run")
    with opened(run) as checkpoints:
        states = [save(checkpoints, step) for step in (1, 2)]
        checkpoint.finish(checkpoints)
    return run, states


@pytest.fixture
def copied(written, tmp_path):
    """The same as a copy that may be damaged."""
    shutil.copytree(written[0], tmp_path / "run")
    return tmp_path / "run", written[1]


def a_state(step, size=64, seed=0):
    keys = jax.random.split(jax.random.key(seed + step), 3)
    params = {"denoiser": {"kernel": jax.random.normal(keys[0], (size, 3)), "bias": jax.random.normal(keys[1], (3,))}}
    ema = jax.tree.map(lambda p: p + 1, params)
    return state.TrainState(
        jnp.int32(step), params, ema, (jax.random.normal(keys[2], (size, 3)), {"count": jnp.ones(())})
    )


def save(checkpoints, step, metric=None, **settings):
    made = a_state(step, **settings)
    checkpoint.save(checkpoints, made, {"next_batch": step}, {"seed": 7}, metric)
    return made


def test_the_newest_comes_back_bit_for_bit(written):
    run, states = written
    with opened(run) as checkpoints:
        restored, data = checkpoint.restore(checkpoints, a_state(0))
    assert data == {"next_batch": 2}
    chex.assert_trees_all_equal(restored, states[1])
    assert jax.tree.structure(restored) == jax.tree.structure(states[1])


def test_a_state_of_one_device_goes_on_on_eight(written):
    run, states = written
    mesh = parallel.device_mesh()
    with opened(run) as checkpoints:
        like = parallel.shapes_as(jax.eval_shape(a_state, 0), parallel.everywhere(mesh))
        restored, _ = checkpoint.restore(checkpoints, like)
    assert len(restored.params["denoiser"]["bias"].sharding.device_set) == 8
    chex.assert_trees_all_equal(jax.device_get(restored), jax.device_get(states[1]))


def test_load_params_gives_the_average_as_numpy(written):
    run, states = written
    params, step = checkpoint.load_params(run)
    assert step == 2
    assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(params))
    chex.assert_trees_all_equal(params, jax.device_get(states[1].ema_params))


def test_a_checkpoint_holds_its_config(written):
    run, _ = written
    assert json.loads((run / "checkpoints" / "2" / "config" / "metadata").read_text()) == {"seed": 7}


def test_a_moved_run_is_as_good(copied):
    run, states = copied
    run.rename(run.with_name("moved"))
    params, _ = checkpoint.load_params(run.with_name("moved"))
    chex.assert_trees_all_equal(params, jax.device_get(states[1].ema_params))


def test_what_is_saved_is_the_state_of_that_moment_even_if_its_memory_is_used_again(tmp_path, toy):
    """The next step overwrites the donated buffers while the checkpoint is still being written."""
    mesh = parallel.device_mesh()
    update = parallel.jit_parallel(
        lambda s, batch, key: (jax.tree.map(lambda x: x + 1, s), {}), mesh, parallel.everywhere(mesh)
    )
    now = parallel.replicate(a_state(0, size=1 << 18), mesh)
    rows = parallel.split_batch({"x": np.zeros(8, np.float32)}, mesh, 8)
    key = parallel.replicate(jax.random.key(0), mesh)
    with opened(tmp_path) as checkpoints:
        now, _ = update(now, rows, key)
        kept = jax.tree.map(lambda x: np.array(x, copy=True), now)
        checkpoint.save(checkpoints, now, {}, {})
        for _ in range(5):
            now, _ = update(now, rows, key)
        jax.block_until_ready(now)
        checkpoint.finish(checkpoints)
        restored, _ = checkpoint.restore(checkpoints, now)
    chex.assert_trees_all_equal(jax.device_get(restored), kept)


@pytest.mark.parametrize(
    ("settings", "left"),
    [
        (dict(keep=1), [6]),
        (dict(keep=2, keep_every=2), [2, 4, 5, 6]),
        (dict(keep=1, keep_best=2), [1, 3, 6]),
        (dict(keep=1, keep_every=5, keep_best=1), [1, 5, 6]),
    ],
)
def test_kept_by_policy(tmp_path, settings, left):
    """Opened anew after each, as by a run that is killed at every step: what was judged is remembered."""
    metrics = {1: 0.1, 2: 0.9, 3: 0.2, 4: float("nan"), 6: 0.8}
    for step in range(1, 7):
        with opened(tmp_path, **settings) as checkpoints:
            save(checkpoints, step, metric=metrics.get(step))
            checkpoint.finish(checkpoints)
    assert sorted(checkpoint_files.steps_in(tmp_path / "checkpoints")) == left


def test_saving_a_step_twice_keeps_the_first(tmp_path):
    with opened(tmp_path) as checkpoints:
        first = save(checkpoints, 3)
        save(checkpoints, 3, seed=9)
        checkpoint.finish(checkpoints)
        chex.assert_trees_all_equal(checkpoint.restore(checkpoints, a_state(0))[0], first)


def test_nothing_there(tmp_path):
    with opened(tmp_path) as checkpoints:
        assert checkpoint.restore(checkpoints, a_state(0)) is None
    with pytest.raises(FileNotFoundError, match="holds no checkpoint: train it first"):
        checkpoint.load_params(tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        checkpoint.load_params(tmp_path / "nowhere")


def test_half_written_ones_are_cleared_away_and_never_read(copied):
    run, _ = copied
    for name in ("3.orbax-checkpoint-tmp", "3.orbax-checkpoint-tmp-17"):
        shutil.copytree(run / "checkpoints" / "2", run / "checkpoints" / name)
    assert checkpoint.load_params(run)[1] == 2
    with opened(run) as checkpoints:
        assert int(checkpoint.restore(checkpoints, a_state(0))[0].step) == 2
        assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["1", "2"]
        save(checkpoints, 3)
        checkpoint.finish(checkpoints)
    assert checkpoint.load_params(run)[1] == 3


def damage(path, how):
    """Hurts the largest file of a checkpoint's state, or the named one."""
    files = [file for file in path.rglob("*") if file.is_file()]
    largest = max(files, key=lambda file: file.stat().st_size)
    match how:
        case "truncated":
            largest.write_bytes(largest.read_bytes()[:-100])
        case "a flipped bit":
            data = bytearray(largest.read_bytes())
            data[len(data) // 2] ^= 1
            largest.write_bytes(bytes(data))
        case "zeroed, as after a power cut":
            largest.write_bytes(bytes(largest.stat().st_size))
        case "a file gone":
            largest.unlink()
        case "no data position":
            shutil.rmtree(path / "data")
        case "listing cut":
            (path / "files.json").write_text('{"data/met')
        case "emptied":
            shutil.rmtree(path)
            path.mkdir()


DAMAGES = (
    "truncated",
    "a flipped bit",
    "zeroed, as after a power cut",
    "a file gone",
    "no data position",
    "listing cut",
    "emptied",
)


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_checkpoint_is_left_aside_for_the_one_before(copied, capfd, caplog, how):
    run, states = copied
    folder = run / "checkpoints"
    damage(folder / "2", how)
    line = rf"checkpoint {folder}/2 cannot be read \(.+\): "
    with pytest.raises(ValueError, match=f"^{line}delete that folder to use the one before$") as loading:
        checkpoint.load_params(run)
    assert "\n" not in str(loading.value)
    said = []
    with opened(run) as checkpoints:
        restored, data = checkpoint.restore(checkpoints, a_state(0), said.append)
        chex.assert_trees_all_equal(restored, states[0])
        assert data == {"next_batch": 1}
        (told,) = said
        assert re.fullmatch(f"{line}going on from step 1, and that one is now 2.damaged", told)
        again = save(checkpoints, 2, seed=5)  # comes once more as training goes on
        checkpoint.finish(checkpoints)
        chex.assert_trees_all_equal(checkpoint.restore(checkpoints, a_state(0), said.append)[0], again)
    assert capfd.readouterr().err == ""
    assert len(said) == 1
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2", "2.damaged"]


def test_several_damaged_ones_are_left_aside_and_never_deleted(tmp_path):
    folder, said = tmp_path / "checkpoints", []
    with opened(tmp_path, keep=3) as checkpoints:
        states = [save(checkpoints, step) for step in (1, 2, 3)]
        checkpoint.finish(checkpoints)
        for _ in range(2):
            damage(folder / "2", "truncated")
            damage(folder / "3", "a flipped bit")
            chex.assert_trees_all_equal(checkpoint.restore(checkpoints, a_state(0), said.append)[0], states[0])
            for step in (2, 3):
                save(checkpoints, step)
            checkpoint.finish(checkpoints)
        for step in range(4, 8):
            save(checkpoints, step)
        checkpoint.finish(checkpoints)
    assert [re.search(r"checkpoints/(\d) .* step 1, and that one is now (\S+)$", line).groups() for line in said] == [
        ("3", "3.damaged"),
        ("2", "2.damaged"),
        ("3", "3.damaged-2"),
        ("2", "2.damaged-2"),
    ]
    aside = [f"{step}.damaged{again}" for step in (2, 3) for again in ("", "-2")]
    assert sorted(path.name for path in folder.iterdir()) == sorted(["5", "6", "7", *aside])


def test_none_is_whole(copied):
    run, _ = copied
    for step in ("1", "2"):
        damage(run / "checkpoints" / step, "truncated")
    line = (
        rf"^checkpoint \S+/2 cannot be read \(state/\S+ is damaged\): no checkpoint in {run}/checkpoints is whole, so "
    )
    with opened(run) as checkpoints, pytest.raises(ValueError, match=line) as raised:
        checkpoint.restore(checkpoints, a_state(0))
    assert "\n" not in str(raised.value)
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["1", "2"]


def test_a_damaged_metric_is_a_damaged_checkpoint(tmp_path):
    with opened(tmp_path) as checkpoints:
        first = save(checkpoints, 1, metric=0.5)
        save(checkpoints, 2, metric=0.25)
        checkpoint.finish(checkpoints)
    (tmp_path / "checkpoints" / "2" / "metric" / "metadata").write_text('{"val')
    with opened(tmp_path) as checkpoints:
        assert checkpoints.metrics == {1: 0.5}
        chex.assert_trees_all_equal(checkpoint.restore(checkpoints, a_state(0), lambda line: None)[0], first)


def test_a_checkpoint_without_a_listing_is_read_unchecked(copied):
    run, states = copied
    (run / "checkpoints" / "2" / "files.json").unlink()
    chex.assert_trees_all_equal(checkpoint.load_params(run)[0], jax.device_get(states[1].ema_params))


def test_a_checkpoint_of_another_model(written):
    run, _ = written
    with opened(run) as checkpoints:
        line = r"does not hold the parameters of its config: 1 differ, first denoiser/kernel, which is \(64, 3\) and "
        with pytest.raises(ValueError, match=line + r"should be \(32, 3\)"):
            checkpoint.restore(checkpoints, a_state(0, size=32))
        grown = a_state(0)._replace(params={"denoiser": a_state(0).params["denoiser"] | {"more": jnp.ones(2)}})
        with pytest.raises(ValueError, match=r"first denoiser/more, which is missing and should be \(2,\)"):
            checkpoint.restore(checkpoints, grown)
        with pytest.raises(
            ValueError, match=r"cannot be read \(.*\): its files are whole, so it is of another optimizer"
        ):
            checkpoint.restore(checkpoints, a_state(0)._replace(opt_state=()))
    assert sorted(checkpoint_files.steps_in(run / "checkpoints")) == [1, 2]


def test_a_full_disk_is_one_line_and_the_one_before_is_still_good(tmp_path, capfd, file_size_limit):
    with opened(tmp_path) as checkpoints:
        first = save(checkpoints, 1)
        checkpoint.finish(checkpoints)
        with file_size_limit(1000):
            save(checkpoints, 2, size=10_000)
            with pytest.raises(OSError, match=r"^a checkpoint could not be written to \S+: File too"):
                checkpoint.finish(checkpoints)
        chex.assert_trees_all_equal(checkpoint.restore(checkpoints, a_state(0))[0], first)
    assert capfd.readouterr().err == ""
    with opened(tmp_path) as checkpoints:
        chex.assert_trees_all_equal(checkpoint.restore(checkpoints, a_state(0))[0], first)
        save(checkpoints, 2)
        checkpoint.finish(checkpoints)
        assert int(checkpoint.restore(checkpoints, a_state(0))[0].step) == 2


def test_a_full_disk_shows_at_the_next_save_too(tmp_path, file_size_limit):
    with opened(tmp_path) as checkpoints, file_size_limit(1000):
        save(checkpoints, 1, size=10_000)
        with pytest.raises(OSError, match="a checkpoint could not be written"):
            save(checkpoints, 2, size=10_000)
