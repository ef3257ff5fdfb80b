"""The same training on 1, 2 and 8 devices; nothing leaves the devices, and nothing compiles twice."""

import chex
import jax
import numpy as np
import pytest

from diffusion_jax.training import parallel


def mesh_of(count):
    return parallel.device_mesh(devices=jax.devices()[:count])


def trained(toy, count, steps=4):
    """State and metrics after some steps on so many devices."""
    mesh = mesh_of(count)
    update = parallel.jit_parallel(toy.train_step, mesh, parallel.everywhere(mesh))
    now, key = parallel.replicate(toy.state(), mesh), parallel.replicate(jax.random.key(1), mesh)
    batches, history = toy.batches(16), []
    for _ in range(steps):
        now, metrics = update(now, parallel.split_batch(next(batches), mesh, 16), key)
        history.append({name: float(value) for name, value in metrics.items()})
    return now, history


def test_all_simulated_devices_are_in_the_mesh():
    assert parallel.device_mesh().size == jax.device_count() == 8
    assert dict(parallel.device_mesh().shape) == {"data": 8, "fsdp": 1, "tensor": 1}


@pytest.mark.parametrize("count", [2, 8])
def test_devices_do_not_change_what_is_learned(toy, count):
    (one, history), (many, histories) = trained(toy, 1), trained(toy, count)
    assert [h["drawn"] for h in history] == [h["drawn"] for h in histories]  # bit for bit: a sum over the noise's bits
    for here, there in zip(history, histories, strict=True):
        assert here["loss"] == pytest.approx(there["loss"], rel=1e-5)
    chex.assert_trees_all_close(jax.device_get(one), jax.device_get(many), rtol=1e-5)
    assert len(many.params["bias"].sharding.device_set) == count


def test_the_step_transfers_nothing_and_compiles_once(toy):
    mesh, traces = mesh_of(8), []

    def counted(*arguments):
        traces.append(arguments)
        return toy.train_step(*arguments)

    update = parallel.jit_parallel(counted, mesh, parallel.everywhere(mesh))
    now, key = parallel.replicate(toy.state(), mesh), parallel.replicate(jax.random.key(1), mesh)
    batches = toy.batches(16)
    for _ in range(4):
        placed = parallel.split_batch(next(batches), mesh, 16)
        with jax.transfer_guard("disallow"):
            now, metrics = update(now, placed, key)
    assert int(now.step) == 4
    assert np.isfinite(float(metrics["loss"]))
    assert len(traces) == 1
    assert update._cache_size() == 1


def test_the_state_is_donated_and_its_average_is_no_alias(toy):
    mesh = mesh_of(2)
    before = parallel.replicate(toy.state(), mesh)
    parallel.jit_parallel(toy.train_step, mesh, parallel.everywhere(mesh))(
        before, parallel.split_batch(next(toy.batches()), mesh, 8), parallel.replicate(jax.random.key(0), mesh)
    )
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before))


@pytest.mark.parametrize(("size", "devices"), [(0, 1), (-8, 8), (7, 2), (12, 8), (1, 2)])
def test_a_batch_that_does_not_divide(size, devices):
    with pytest.raises(ValueError, match=f"batch_size={size} does not divide among {devices} devices: use a multiple"):
        parallel.check_batch_size(size, mesh_of(devices))


def test_a_batch_that_divides():
    parallel.check_batch_size(16, mesh_of(8))


def test_spread_splits_what_it_is_told_to():
    mesh, shards = mesh_of(8), []

    def function(weights, rows):
        jax.debug.inspect_array_sharding(rows, callback=shards.append)
        return rows * weights

    rows = np.arange(16.0, dtype=np.float32)
    out = parallel.spread(function, mesh, split={1})(np.float32(2.0), rows)
    np.testing.assert_array_equal(out, rows * 2)
    assert out.is_fully_replicated
    assert shards[0].shard_shape((16,)) == (2,)


@pytest.mark.parametrize(("size", "up"), [(1, 8), (8, 8), (9, 16)])
def test_rounded_up(size, up):
    assert parallel.rounded_up(size, mesh_of(8)) == up


@pytest.mark.parametrize(
    ("axes", "shape"),
    [
        (dict(), (8, 1, 1)),
        (dict(fsdp=4), (2, 4, 1)),
        (dict(data=1, fsdp=-1, tensor=2), (1, 4, 2)),
        (dict(data=2, fsdp=2, tensor=2), (2, 2, 2)),
        (dict(fsdp=2, slices=4), (4, 2, 1)),
    ],
)
def test_meshes(axes, shape):
    assert tuple(parallel.device_mesh(**axes).shape.values()) == shape


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        (dict(fsdp=3), "data=-1, fsdp=3, tensor=1 does not multiply to 8 devices"),
        (dict(data=2), "data=2, fsdp=1, tensor=1 does not multiply to 8 devices"),
        (dict(data=-1, fsdp=-1), "-1, once, is what the others leave"),
        (dict(data=0), "data=0, fsdp=1, tensor=1 does not multiply"),
        (dict(tensor=-2), "tensor=-2 does not multiply"),
        (dict(fsdp=4, slices=4), "data=2 does not divide among 4 slices: fsdp and tensor have to lie within one"),
    ],
)
def test_meshes_that_do_not_fit(axes, message):
    with pytest.raises(ValueError, match=message):
        parallel.device_mesh(**axes)


def test_devices_of_slices_lie_slice_by_slice():
    """The outermost part of `data` is the slice, in whatever order the devices come."""

    class Chip:
        platform, process_index, device_kind = "cpu", 0, "chip"

        def __init__(self, number):
            self.id, self.slice_index = number, number % 2

    chips = parallel.arranged([Chip(number) for number in range(8)], 4, 2, 1, slices=0)
    slices = np.vectorize(lambda chip: chip.slice_index)(chips)
    assert slices.shape == (4, 2, 1)
    assert (slices[:2] == slices[0, 0, 0]).all()
    assert (slices[2:] == 1 - slices[0, 0, 0]).all()


def test_the_rows_that_a_process_holds():
    for axes in (dict(), dict(fsdp=4), dict(data=2, tensor=4)):
        np.testing.assert_array_equal(parallel.local_rows(parallel.device_mesh(**axes), 16), np.arange(16))
