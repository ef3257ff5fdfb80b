"""Where a step runs: on all devices, each with its part of the batch, and every one with all of the parameters."""

from collections.abc import Callable, Collection

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def data_mesh() -> Mesh:
    """All devices of all processes along one axis, `data`."""
    return Mesh(np.array(jax.devices()), ("data",))


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Raise ValueError unless the global batch divides among the devices."""
    if batch_size < 1 or batch_size % mesh.size:
        raise ValueError(
            f"batch_size={batch_size} does not divide among {mesh.size} devices: use a multiple of {mesh.size}"
        )


def data_parallel(train_step: Callable, mesh: Mesh) -> Callable:
    """Compile a step for the mesh: batch split over `data`, state replicated and donated, metrics replicated."""
    replicated, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
    return jax.jit(
        train_step,
        in_shardings=(replicated, split, replicated),
        out_shardings=(replicated, replicated),
        donate_argnums=0,
    )


def spread(function: Callable, mesh: Mesh, split: Collection[int]) -> Callable:
    """Compile a function for the mesh: arguments in these places are split over `data`, the others replicated.

    The first axis of what is split divides by the number of devices; see `rounded_up`. Results are replicated.
    """
    shardings = (PartitionSpec(), PartitionSpec("data"))

    def on_mesh(*arguments):
        placed = (
            jax.device_put(argument, NamedSharding(mesh, shardings[place in split]))
            for place, argument in enumerate(arguments)
        )
        return compiled(*placed)

    compiled = jax.jit(function, out_shardings=NamedSharding(mesh, PartitionSpec()))
    return on_mesh


def rounded_up(size: int, mesh: Mesh) -> int:
    """The next multiple of the number of devices."""
    return -(-size // mesh.size) * mesh.size


def split_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Put this process's rows of the global batch on its devices."""
    split = NamedSharding(mesh, PartitionSpec("data"))
    return {name: jax.make_array_from_process_local_data(split, rows) for name, rows in batch.items()}


def replicate(tree, mesh: Mesh):
    """Put every leaf on every device."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def replicated_shapes(tree, mesh: Mesh):
    """The shapes of a tree, laid out as `replicate` lays it out: what a checkpoint is read into."""
    everywhere = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere), tree)
