"""The step by pmap: the tested alternative to `parallel.jit_parallel`."""

from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from diffusion_jax.training.parallel import everywhere


def pmap_parallel(train_step: Callable, mesh: Mesh) -> Callable:
    """Map a step, made with axis="rows", over the devices; the whole state is on each of them, and donated.

    The same arguments and results as `jit_parallel`: arrays on the devices of all processes. pmap itself takes and
    makes arrays on those of its own process; they are the same buffers.
    """
    mine = [device for device in mesh.devices.flat if device.process_index == jax.process_index()]
    here = NamedSharding(Mesh(np.array(mine), ("rows",)), PartitionSpec())
    devices, axes = list(mesh.devices.flat), dict(in_axes=(None, 0, None), out_axes=(None, None))
    mapped = jax.pmap(train_step, axis_name="rows", devices=devices, donate_argnums=0, **axes)

    def relabeled(tree, sharding):
        return jax.tree.map(
            lambda a: jax.make_array_from_single_device_arrays(
                a.shape, sharding, [shard.data for shard in a.addressable_shards]
            ),
            tree,
        )

    def stacked(rows):
        shards = sorted(rows.addressable_shards, key=lambda shard: shard.index[0].start or 0)
        return np.stack([np.asarray(shard.data) for shard in shards])

    def take_step(state, batch, key):
        key = jax.random.wrap_key_data(relabeled(jax.random.key_data(key), here))
        state, metrics = mapped(relabeled(state, here), jax.tree.map(stacked, batch), key)
        return relabeled(state, everywhere(mesh)), relabeled(metrics, everywhere(mesh))

    def lower(state, batch, key):  # of arrays or shapes, as a jitted step has it
        state, batch, key = jax.eval_shape(lambda *arguments: arguments, state, batch, key)
        count = len(devices)
        stacked_shapes = jax.tree.map(
            lambda rows: jax.ShapeDtypeStruct((count, rows.shape[0] // count, *rows.shape[1:]), rows.dtype), batch
        )
        return mapped.lower(state, stacked_shapes, key)

    take_step.lower = lower
    return take_step
