"""The averaged parameters of a run as one file, whatever they are sharded over."""

import json
import shutil

import chex
import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from diffusion_jax import trained
from diffusion_jax.interop.safetensors_file import load_params
from diffusion_jax.training import checkpoint, state
from tests.commands.test_train import state_of


@pytest.fixture(scope="module")
def sharded(trained_once, tmp_path_factory):
    """The trained run, with a further checkpoint in which every array that divides lies in parts on eight devices."""
    run = shutil.copytree(trained_once, tmp_path_factory.mktemp("sharded") / "run")
    mesh = Mesh(np.array(jax.devices()), ("fsdp",))

    def cut(leaf):
        axes = [axis for axis, size in enumerate(leaf.shape) if size % 8 == 0]
        names = ["fsdp" if axis == axes[-1] else None for axis in range(leaf.ndim)] if axes else []
        return jax.device_put(leaf, NamedSharding(mesh, PartitionSpec(*names)))

    _, tree = state_of(run)
    now = jax.tree.map(cut, state.TrainState(**tree | {"step": np.int32(9)}))
    assert not all(leaf.is_fully_replicated for leaf in jax.tree.leaves(now.ema_params))
    checkpoints = checkpoint.open_checkpoints(run)
    checkpoint.save(checkpoints, now, {}, {})
    checkpoint.finish(checkpoints)
    checkpoint.close(checkpoints)
    return run, now


def test_float32_keeps_every_bit_of_the_average_and_holds_nothing_else(sharded, tmp_path):
    run, now = sharded
    trained.export(run, tmp_path, dtype="float32")
    found = load_params(tmp_path / "weights.safetensors")
    chex.assert_trees_all_equal(found, jax.device_get(now.ema_params))
    assert {path.name for path in tmp_path.iterdir()} == {"weights.safetensors", "config.json"}
    numbers = sum(leaf.size for leaf in jax.tree.leaves(found))
    assert 4 * numbers < (tmp_path / "weights.safetensors").stat().st_size < 4 * numbers + 20_000
    assert json.loads((tmp_path / "config.json").read_text())["batch_size"] == 8


def test_float16_is_what_is_written_unasked(sharded, tmp_path):
    run, now = sharded
    trained.export(run, tmp_path)
    half = jax.tree.map(lambda leaf: np.asarray(leaf).astype(np.float16).astype(np.float32), now.ema_params)
    chex.assert_trees_all_equal(load_params(tmp_path / "weights.safetensors"), half)


def test_another_dtype_is_one_line(sharded, tmp_path):
    with pytest.raises(ValueError, match=r"^parameters are stored as float32 or float16, not int8$"):
        trained.export(sharded[0], tmp_path, dtype="int8")
