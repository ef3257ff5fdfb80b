"""Which part of each parameter lies on which device: rules by name and shape, on one page.

A mesh has the axes `data`, `fsdp` and `tensor`. The rows of a batch are cut over data and fsdp. A leaf of the state, be
it a parameter, its average or one of its moments, has a path that ends as the parameter's, and is cut like it:

    tensor   kernels of attention and feed-forward: into heads or hidden units on the way in, which are columns, and
             the same units on the way out, which are rows (Shoeybi et al. 2019, Megatron-LM, section 3)
    fsdp     of every leaf that is worth it, the largest axis that is left and divides (Rajbhandari et al. 2020, ZeRO,
             stage 3: parameters, gradients and moments are each on one device only)
    data     nothing: every copy of the model is whole
"""

import re

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

AXES = ("data", "fsdp", "tensor")
ROWS = PartitionSpec(("data", "fsdp"))  # how a batch is cut
SMALLEST = 2**12  # elements: what is smaller is on every device, since to gather it costs more than to keep it

INWARD = re.compile(r"attention/(q|k|v|qkv|query|key|value|key_value)/kernel$|/(wi|wi_0|wi_1|gate|fc1)/kernel$")
OUTWARD = re.compile(r"attention/(o|out)/kernel$|/(attention_out|wo|fc2)/kernel$")


def layout(tree: PyTree, mesh: Mesh | AbstractMesh) -> PyTree:
    """A NamedSharding for each leaf of parameters, or of a whole state; leaves are arrays or shapes."""

    def place(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return NamedSharding(mesh, spec(name, leaf.shape, dict(mesh.shape)))

    return jax.tree_util.tree_map_with_path(place, tree)


def spec(name: str, shape: tuple[int, ...], sizes: dict[str, int]) -> PartitionSpec:
    """How one leaf is cut; an axis that its devices do not divide is left whole."""
    cut: list[str | None] = [None] * len(shape)
    tensor, fsdp = sizes.get("tensor", 1), sizes.get("fsdp", 1)
    if tensor > 1 and len(shape) == 2:
        axis = 1 if INWARD.search(name) else 0 if OUTWARD.search(name) else None
        if axis is not None and shape[axis] % tensor == 0:
            cut[axis] = "tensor"
    if fsdp > 1 and np.prod(shape, dtype=np.int64) >= SMALLEST:
        free = [axis for axis, size in enumerate(shape) if cut[axis] is None and size % fsdp == 0]
        if free:
            cut[max(free, key=lambda axis: (shape[axis], axis))] = "fsdp"
    while cut and cut[-1] is None:  # as JAX writes it: an array's own spec then equals this one
        cut.pop()
    return PartitionSpec(*cut)


def gathered(params: PyTree, shardings: PyTree) -> PyTree:
    """Within a compiled step: parameters, laid out as `shardings`, made whole over fsdp for what computes with them.

    Without this the compiler cuts activations as it finds kernels cut, over channels instead of rows, and moves them
    from one way to the other and back in several collectives for each layer. With it a parameter is gathered once, for
    the forward and the backward pass, and gradients are summed together.
    """

    def whole(leaf, sharding):
        axes = (None if axis == "fsdp" else axis for axis in sharding.spec)
        return jax.lax.with_sharding_constraint(leaf, NamedSharding(sharding.mesh, PartitionSpec(*axes)))

    return jax.tree.map(whole, params, shardings)


def bytes_on_each(tree: PyTree, shardings: PyTree) -> int:
    """What a tree of arrays or shapes takes on each device when it is laid out so."""
    sizes = jax.tree.map(
        lambda leaf, sharding: int(np.prod(sharding.shard_shape(leaf.shape), dtype=np.int64)) * leaf.dtype.itemsize,
        tree,
        shardings,
    )
    return sum(jax.tree.leaves(sizes))


def by_axes(tree: PyTree, shardings: PyTree) -> dict[str, tuple[int, int]]:
    """For each way to cut, such as "fsdp and tensor" or "whole": the number of leaves, and bytes on each device."""
    found: dict[str, tuple[int, int]] = {}
    for leaf, sharding in zip(jax.tree.leaves(tree), jax.tree.leaves(shardings), strict=True):
        way = " and ".join(sorted(axis for axis in sharding.spec if axis)) or "whole"
        count, size = found.get(way, (0, 0))
        found[way] = count + 1, size + bytes_on_each(leaf, sharding)
    return found
