"""What is on the disk after a kill, a full disk, a bad sector or somebody else's files; and that loading is exact."""

import json
import logging
import shutil
import subprocess
import sys
from contextlib import contextmanager

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.training import checkpoint, parallel, state


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


def save(checkpoints, step, **settings):
    made = a_state(step, **settings)
    checkpoint.save(checkpoints, made, {"next_batch": step}, {"seed": 7})
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
    mesh = parallel.data_mesh()
    with opened(run) as checkpoints:
        like = parallel.replicated_shapes(jax.eval_shape(a_state, 0), mesh)
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
    mesh = parallel.data_mesh()
    update = parallel.data_parallel(lambda s, batch, key: (jax.tree.map(lambda x: x + 1, s), {}), mesh)
    now = parallel.replicate(a_state(0, size=1 << 18), mesh)
    rows, key = parallel.split_batch({"x": np.zeros(8, np.float32)}, mesh), parallel.replicate(jax.random.key(0), mesh)
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


@pytest.mark.parametrize(("settings", "left"), [(dict(keep=1), [5]), (dict(keep=2, keep_every=2), [2, 4, 5])])
def test_kept_by_policy(tmp_path, settings, left):
    with opened(tmp_path, **settings) as checkpoints:
        for step in range(1, 6):
            save(checkpoints, step)
        checkpoint.finish(checkpoints)
    assert sorted(checkpoint.steps_in(tmp_path / "checkpoints")) == left


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
def test_a_damaged_checkpoint_is_one_line_and_the_one_before_is_still_good(copied, capfd, caplog, how):
    run, states = copied
    damage(run / "checkpoints" / "2", how)
    expected = r"^checkpoint \S+/2 cannot be read \(.+\): delete that folder to go on from the one before$"
    with opened(run) as checkpoints:
        with pytest.raises(ValueError, match=expected) as restoring:
            checkpoint.restore(checkpoints, a_state(0))
        with pytest.raises(ValueError, match=expected) as loading:
            checkpoint.load_params(run)
    assert "\n" not in str(restoring.value) + str(loading.value)
    assert capfd.readouterr().err == ""
    shutil.rmtree(run / "checkpoints" / "2")
    with opened(run) as checkpoints:
        chex.assert_trees_all_equal(checkpoint.restore(checkpoints, a_state(0))[0], states[0])


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
        with pytest.raises(ValueError, match="cannot be read"):  # the same parameters, of another optimizer
            checkpoint.restore(checkpoints, a_state(0)._replace(opt_state=()))


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


def test_orbax_is_quiet_and_others_are_not(tmp_path, caplog):
    checkpoint.quiet_orbax()
    absl = logging.getLogger("absl")
    assert absl.filters.count(checkpoint.not_of_orbax) == 1
    with opened(tmp_path) as checkpoints:
        save(checkpoints, 1)
        save(checkpoints, 2)
    absl.warning("3 of 7 pictures have no caption")
    assert [record.getMessage() for record in caplog.records if record.name == "absl"] == [
        "3 of 7 pictures have no caption"
    ]


def test_one_trainer_for_each_folder(tmp_path):
    line = f"another process trains in {tmp_path}: wait for it, or choose another --workdir"
    with checkpoint.lock(tmp_path), pytest.raises(OSError, match=line):
        checkpoint.lock(tmp_path)
    checkpoint.lock(tmp_path).close()


HOLD = (
    "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); input()"
)


def test_the_lock_goes_with_a_killed_process(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(OSError, match="another process trains"):
            checkpoint.lock(tmp_path)
        holder.kill()
    checkpoint.lock(tmp_path).close()


@pytest.mark.parametrize(("text", "error"), [("{", "is damaged"), ("[1]", "holds no config"), ("\xff", "is damaged")])
def test_a_damaged_config(tmp_path, text, error):
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=error):
        checkpoint.read_config(tmp_path)


def test_no_config(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no run folder: it holds no config"):
        checkpoint.read_config(tmp_path)
