"""Where a step runs: on the devices of all processes, each with its rows of the batch and its part of the state."""

import functools
from collections.abc import Callable, Collection, Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec, Sharding
from jaxtyping import PyTree

from diffusion_jax.training.layout import AXES, ROWS


def device_mesh(
    data: int = -1, fsdp: int = 1, tensor: int = 1, slices: int = 0, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """Devices of all processes along the axes `data`, `fsdp` and `tensor`; -1, once, is what the others leave.

    slices: groups of devices with a slower network between them, such as TPU slices; 0 is as many as the devices
    themselves tell. They lie along the outermost part of `data`, so that only sums of gradients go between them.
    Raises ValueError where the numbers do not multiply to the devices, or a slice would be torn.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = axis_sizes(data, fsdp, tensor, len(devices))
    return Mesh(arranged(devices, *sizes.values(), slices), AXES)


def arranged(devices: Sequence, data: int, fsdp: int, tensor: int, slices: int) -> np.ndarray:
    """Devices as an array of the axes' sizes; see `device_mesh`. Raises ValueError where a slice would be torn."""
    told = {getattr(device, "slice_index", 0) for device in devices}
    slices = slices or len(told)
    if data % slices:
        raise ValueError(_torn(data, slices))
    if len(told) == slices > 1:
        return mesh_utils.create_hybrid_device_mesh((data // slices, fsdp, tensor), (slices, 1, 1), devices)
    if devices[0].platform == "tpu" and len(told) == 1:  # neighbors in the torus, where JAX knows it
        return mesh_utils.create_device_mesh((data, fsdp, tensor), devices)
    return np.array(devices).reshape(data, fsdp, tensor)


def planned_mesh(count: int, data: int = -1, fsdp: int = 1, tensor: int = 1, slices: int = 0) -> AbstractMesh:
    """The mesh of so many devices that are not there: to lay out and to lower for, not to compute on.

    Raises ValueError as `device_mesh` does.
    """
    sizes = axis_sizes(data, fsdp, tensor, count)
    if sizes["data"] % max(slices, 1):
        raise ValueError(_torn(sizes["data"], slices))
    return AbstractMesh(tuple(sizes.values()), AXES, axis_types=(AxisType.Auto,) * len(AXES))  # as of a Mesh


def axis_sizes(data: int, fsdp: int, tensor: int, count: int) -> dict[str, int]:
    """The sizes of the axes of a mesh. Raises ValueError where they do not multiply to `count` devices."""
    sizes = dict(data=data, fsdp=fsdp, tensor=tensor)
    rest = [name for name, size in sizes.items() if size == -1]
    known = int(np.prod([size for size in sizes.values() if size != -1]))
    if len(rest) > 1 or min(size for size in sizes.values() if size != -1) < 1 or count % max(known, 1):
        raise ValueError(_misfit(sizes, count))
    sizes |= dict.fromkeys(rest, count // known)
    if np.prod(list(sizes.values())) != count:
        raise ValueError(_misfit(sizes, count))
    return sizes


def _misfit(sizes: dict[str, int], count: int) -> str:
    told = ", ".join(f"{name}={size}" for name, size in sizes.items())
    return f"config.parallel.mesh: {told} does not multiply to {count} devices; -1, once, is what the others leave"


def _torn(data: int, slices: int) -> str:
    told = f"config.parallel.mesh: data={data} does not divide among {slices} slices"
    return f"{told}: fsdp and tensor have to lie within one"


def everywhere(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def meet(mesh: Mesh) -> None:
    """Open the connections between devices of several processes, along every axis, while the processes are in step.

    Gloo, which connects CPUs, opens one when it is first used, and gives up where another process comes 30 s later: as
    after a compilation that took one of them longer.
    """
    if jax.process_count() == 1:
        return
    spread_out = NamedSharding(mesh, PartitionSpec(AXES))
    ones = place(np.ones(mesh.size, np.float32), spread_out)
    for axes in (AXES, ROWS[0], *((axis,) for axis in AXES)):
        rest = PartitionSpec(tuple(axis for axis in AXES if axis not in axes) or None)
        add = functools.partial(jax.lax.psum, axis_name=axes)
        jax.block_until_ready(jax.jit(jax.shard_map(add, mesh=mesh, in_specs=spread_out.spec, out_specs=rest))(ones))


def rows_in(mesh: Mesh | AbstractMesh) -> int:
    """Into how many parts a batch is cut."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def check_batch_size(batch_size: int, mesh: Mesh | AbstractMesh, microbatch: int = 0) -> None:
    """Raise ValueError unless the global batch divides among the devices, and into microbatches that do."""
    parts = rows_in(mesh)
    if batch_size < 1 or batch_size % parts:
        raise ValueError(f"batch_size={batch_size} does not divide among {parts} devices: use a multiple of {parts}")
    if microbatch and (microbatch < 0 or batch_size % microbatch or microbatch % parts):
        raise ValueError(
            f"config.microbatch={microbatch} has to divide batch_size={batch_size}, and by {parts} devices; 0 is none"
        )


def jit_parallel(train_step: Callable, mesh: Mesh | AbstractMesh, shardings: PyTree) -> Callable:
    """Compile a step for the mesh: the batch cut into rows, the state laid out as `shardings` and donated.

    shardings: of a whole state, from `layout`, or one for all of it. Metrics are replicated.
    """
    split = NamedSharding(mesh, ROWS)

    def on_mesh(state, batch, key):
        with jax.sharding.use_abstract_mesh(mesh if isinstance(mesh, AbstractMesh) else mesh.abstract_mesh):
            return train_step(state, batch, key)  # where `models.heads` looks for the axis `tensor`

    return jax.jit(
        on_mesh if mesh.shape["tensor"] > 1 else train_step,
        in_shardings=(shardings, split, everywhere(mesh)),
        out_shardings=(shardings, everywhere(mesh)),
        donate_argnums=0,
    )


def spread(function: Callable, mesh: Mesh, split: Collection[int]) -> Callable:
    """Compile a function for the mesh: arguments in these places are cut into rows, the others stay as they lie.

    What is not on the mesh yet is put on every device of it. The first axis of what is cut divides by the number of
    parts; see `rounded_up`. Results are replicated.
    """
    replicated, rows = everywhere(mesh), NamedSharding(mesh, ROWS)

    def on_mesh(*arguments):
        return compiled(
            *(
                place(argument, rows) if number in split else placed(argument, replicated)
                for number, argument in enumerate(arguments)
            )
        )

    compiled = jax.jit(function, out_shardings=replicated)
    return on_mesh


def rounded_up(size: int, mesh: Mesh) -> int:
    """The next multiple of the number of parts that a batch is cut into."""
    return -(-size // rows_in(mesh)) * rows_in(mesh)


@functools.cache  # each step asks
def local_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """The rows of a global batch which devices of this process hold, int64, ascending."""
    held = NamedSharding(mesh, ROWS).addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[index] for index in held]))


def split_batch(batch: dict[str, np.ndarray], mesh: Mesh, batch_size: int) -> dict[str, jax.Array]:
    """Put this process's rows of a global batch, those of `local_rows`, on its devices."""
    rows, split = local_rows(mesh, batch_size), NamedSharding(mesh, ROWS)

    def put(mine: np.ndarray) -> jax.Array:
        def part(index):
            first = np.searchsorted(rows, index[0].start or 0)
            return mine[first : first + len(range(*index[0].indices(batch_size)))]

        return jax.make_array_from_callback((batch_size, *mine.shape[1:]), split, part)

    return {name: put(column) for name, column in batch.items()}


def place(tree: PyTree, shardings: Sharding | PyTree) -> PyTree:
    """Lay out a tree that every process has whole: with one sharding, or with one for each leaf."""
    if jax.process_count() == 1:
        return jax.device_put(tree, shardings)
    if isinstance(shardings, Sharding):
        shardings = jax.tree.map(lambda _: shardings, tree)
    return jax.tree.map(_from_here, tree, shardings)


def _from_here(leaf, sharding: Sharding) -> jax.Array:
    if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_from_here(jax.random.key_data(leaf), sharding))
    whole = np.asarray(leaf)
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])


def placed(tree: PyTree, sharding: NamedSharding) -> PyTree:
    """`place`, for the leaves that are not on all devices of the sharding already; the others stay as they lie."""

    def there(leaf) -> bool:
        return isinstance(leaf, jax.Array) and leaf.sharding.device_set == sharding.device_set

    return jax.tree.map(lambda leaf: leaf if there(leaf) else place(leaf, sharding), tree)


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """Put every leaf, which every process has whole, on every device."""
    return place(tree, everywhere(mesh))


def shapes_as(tree: PyTree, shardings: Sharding | PyTree) -> PyTree:
    """The shapes of a tree, with one sharding or with one for each leaf: what a checkpoint is read into."""
    if isinstance(shardings, Sharding):
        shardings = jax.tree.map(lambda _: shardings, tree)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree, shardings
    )
