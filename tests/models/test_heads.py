"""Attention of which each device computes whole heads: the same numbers, and no activation is exchanged for them."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from diffusion_jax.models.attention import SelfAttention

SPECS = {  # as training/layout.py cuts them
    "qkv": {"kernel": PartitionSpec(None, "tensor"), "bias": PartitionSpec()},
    "out": {"kernel": PartitionSpec("tensor"), "bias": PartitionSpec()},
    "norm": {"scale": PartitionSpec(), "bias": PartitionSpec()},
}
MODULE, ROWS = SelfAttention(head_dim=4), PartitionSpec("data")
X = jnp.asarray(np.random.default_rng(0).normal(size=(8, 4, 4, 32)), jnp.float32)


def drawn_params():
    draw, shapes = np.random.default_rng(1), jax.eval_shape(MODULE.init, jax.random.key(0), X)["params"]
    return jax.tree.map(lambda leaf: jnp.asarray(draw.normal(0, 0.2, leaf.shape), leaf.dtype), shapes)


def gradients(module, params, x):
    return jax.value_and_grad(lambda p, x: (module.apply({"params": p}, x) ** 2).sum(), (0, 1))(params, x)


def mesh_of(data, tensor):
    return Mesh(np.array(jax.devices()[: data * tensor]).reshape(data, tensor), ("data", "tensor"))


def program(module, mesh):
    """Loss and gradients of parameters and input, compiled for a mesh, and what to call that with."""
    shardings, rows = (jax.tree.map(partial(NamedSharding, mesh), specs) for specs in (SPECS, ROWS))
    results = NamedSharding(mesh, PartitionSpec()), (shardings, rows)
    arguments = jax.device_put((drawn_params(), X), (shardings, rows))
    return jax.jit(partial(gradients, module), out_shardings=results).lower(*arguments).compile(), arguments


@pytest.mark.parametrize(("data", "tensor"), [(1, 4), (2, 4), (4, 2), (1, 8)])
def test_a_mesh_changes_no_number_and_exchanges_kernels_only(data, tensor):
    mesh = mesh_of(data, tensor)
    with jax.set_mesh(mesh):
        compiled, arguments = program(MODULE, mesh)
    found = compiled(*arguments)
    expected = jax.jit(partial(gradients, MODULE))(drawn_params(), X)
    least = 1e-5 * max(float(abs(leaf).max()) for leaf in jax.tree.leaves(expected[1]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=least), found, expected)

    text = compiled.as_text()
    assert " collective-permute" not in text
    gathered = re.findall(r" = \w+\[([\d,]*)\]\S* all-gather", text)
    assert all(np.prod([int(size) for size in shape.split(",")]) <= 3 * 32 for shape in gathered)  # biases
    exchanged = re.findall(r" = \(?\w+\[([\d,]*)\].* all-to-all", text)
    assert len(exchanged) == 4  # columns, rows, heads, and back
    block = 3 * 32 * 32 // tensor**2  # of the kernel, from one device to another
    assert [np.prod([int(size) for size in shape.split(",")]) for shape in exchanged] == [block] * 4


def test_without_the_mesh_activations_are_exchanged():
    """What the constraints are there for; where this fails, XLA has learned it and `models/heads.py` can go."""
    assert " collective-permute" in program(MODULE, mesh_of(1, 4))[0].as_text()


def test_parameters_are_the_same_on_any_mesh():
    plain = MODULE.init(jax.random.key(0), X)
    with jax.set_mesh(mesh_of(1, 8)):
        cut = MODULE.init(jax.random.key(0), X)
    jax.tree.map(np.testing.assert_array_equal, cut, plain)


def test_heads_that_do_not_divide_are_left_to_xla():
    two = SelfAttention(head_dim=16)  # of 32 channels: 2 heads
    mesh = mesh_of(1, 4)
    with jax.set_mesh(mesh):
        compiled, arguments = program(two, mesh)
    found = compiled(*arguments)
    np.testing.assert_allclose(found[0], gradients(two, drawn_params(), X)[0], rtol=1e-5)
