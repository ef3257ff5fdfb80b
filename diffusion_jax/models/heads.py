"""Query, key and value by one projection, of which every device computes whole heads where a mesh cuts them.

The three stand one after another among the columns of one kernel. A device that holds a contiguous share of these
columns would compute queries of other heads than keys, and activations, which grow with the batch, would be exchanged.
Shoeybi et al. 2019 (Megatron-LM, section 3) keep three kernels instead. Here the kernel is exchanged, and what is
stored keeps its meaning.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from diffusion_jax.models.projection import project

AXIS = "tensor"  # of the mesh that a step is traced for, over which heads are cut


def query_key_value(
    x: Float[Array, "batch length dim"], heads: int, dtype: DTypeLike, name: str
) -> list[Float[Array, "batch length dim"]]:
    """Three arrays of the width of x, in each of which heads stand side by side.

    Parameters are those of an nn.Dense called `name`, on any mesh. Without a mesh that has the axis, or where its
    devices do not divide the heads, they are that layer's columns and nothing else.
    """
    devices = jax.sharding.get_abstract_mesh().shape.get(AXIS, 1)
    if devices > 1 and heads % devices == 0:
        return ByHeads(heads, dtype, name=name)(x)
    return jnp.split(project(x, 3 * x.shape[-1], dtype, name), 3, axis=-1)


class ByHeads(nn.Module):
    """`query_key_value` where a mesh cuts heads: the kernel is laid out by heads before it is used."""

    heads: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "batch length dim"]) -> list[Float[Array, "batch length dim"]]:
        dim, placed = x.shape[-1], jax.lax.with_sharding_constraint
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (dim, 3 * dim))
        bias = self.param("bias", nn.initializers.zeros, (3 * dim,))
        # From columns to rows and from rows to heads is an all-to-all each, and so is the gradient's way back. Without
        # each of the steps, XLA gathers the whole kernel on every device.
        kernel = placed(kernel.astype(self.dtype), PartitionSpec(AXIS))
        kernel = placed(kernel.reshape(dim, 3, self.heads, -1), PartitionSpec(AXIS))
        kernel = placed(kernel, PartitionSpec(None, None, AXIS))
        y = jnp.einsum("blc,cphd->blphd", x.astype(self.dtype), kernel)
        y = y + bias.astype(self.dtype).reshape(1, 1, *kernel.shape[1:])
        return [y[:, :, part].reshape(x.shape) for part in range(3)]
