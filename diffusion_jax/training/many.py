"""Many trainings as one program: their states are stacked along a new first axis, which is cut among the devices.

Each device has its runs whole, so that nothing goes between devices. Where a device has one run, it computes what a
program of that run alone would.
"""

from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

RUNS = PartitionSpec("runs")


def mesh_of(count: int, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Of the devices, as few as leave the fullest one no more runs than it has to have."""
    devices = list(jax.devices() if devices is None else devices)
    each = -(-count // len(devices))
    return Mesh(np.array(devices[: -(-count // each)]), ("runs",))


def stacked(trees: Sequence[PyTree], mesh: Mesh) -> PyTree:
    """Trees of one structure as one tree, cut among the devices; the last is repeated until they divide among them."""
    trees = [*trees, *[trees[-1]] * (-len(trees) % mesh.size)]
    return jax.tree.map(lambda *leaves: _stacked(leaves, NamedSharding(mesh, RUNS)), *trees)


def _stacked(leaves: Sequence, sharding: NamedSharding) -> jax.Array:
    if isinstance(leaves[0], jax.Array) and jax.dtypes.issubdtype(leaves[0].dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_stacked([jax.random.key_data(leaf) for leaf in leaves], sharding))
    return jax.device_put(np.stack(jax.device_get(leaves)), sharding)


def one_of(tree: PyTree, place: int) -> PyTree:
    """The tree of one run, on the device where it lies."""

    def its_own(leaf: jax.Array) -> jax.Array:
        for shard in leaf.addressable_shards:
            first = shard.index[0].start or 0
            if first <= place < first + len(shard.data):
                return shard.data[place - first]
        raise IndexError(f"no device here has run {place}")

    return jax.tree.map(its_own, tree)


def make_step(update: Callable, mesh: Mesh) -> Callable:
    """(numbers, states, batches, which, keys) -> (states, metrics), compiled; the states are donated.

    update: (numbers, state, batch, key) -> (state, metrics), of one run. numbers, states, keys: stacked. batches: a
    tree of (batch, ...) arrays stacked along a first axis, on all devices. which: for each run its batch among them.
    metrics: stacked.
    """

    def of_one(numbers, state, which, key, batches):
        return update(numbers, state, jax.tree.map(lambda column: column[which], batches), key)

    def here(numbers, states, which, keys, batches):
        own = (numbers, states, which, keys)
        if len(which) == 1:  # a map over one would make other, slower programs of the convolutions
            result = of_one(*jax.tree.map(lambda leaf: leaf[0], own), batches)
            return jax.tree.map(lambda leaf: leaf[None], result)
        if len(jax.tree.leaves(batches)[0]) == 1:  # what all runs share is not repeated for each
            one = jax.tree.map(lambda column: column[0], batches)
            return jax.vmap(update, in_axes=(0, 0, None, 0))(numbers, states, one, keys)
        return jax.vmap(of_one, in_axes=(0, 0, 0, 0, None))(*own, batches)

    def everywhere(numbers, states, batches, which, keys):
        specs = (RUNS, RUNS, RUNS, RUNS, PartitionSpec())
        mapped = jax.shard_map(here, mesh=mesh, in_specs=specs, out_specs=RUNS, check_vma=False)
        return mapped(numbers, states, which, keys, batches)

    return jax.jit(everywhere, donate_argnums=1)


def batches_on(distinct: Sequence[dict], mesh: Mesh) -> dict[str, jax.Array]:
    """Batches stacked along a first axis, on every device."""
    columns = {name: np.stack([batch[name] for batch in distinct]) for name in distinct[0]}
    return jax.device_put(columns, NamedSharding(mesh, PartitionSpec()))
