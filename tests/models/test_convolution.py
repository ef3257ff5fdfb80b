"""Winograd's convolution beside XLA's: the same values and derivatives, chosen only where it can be."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from jax.sharding import PartitionSpec

from diffusion_jax.models import convolution, fusion
from diffusion_jax.models.blocks import conv
from diffusion_jax.training import parallel


def reference(x, kernel):
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def drawn(*shapes, seed=0):
    numbers = np.random.default_rng(seed)
    return [jnp.asarray(numbers.standard_normal(shape), jnp.float32) for shape in shapes]


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), st.integers(1, 5), st.integers(1, 5))
def test_values_and_derivatives_are_those_of_xla(batch, half_height, half_width, channels, features):
    x, kernel, ct, dx, dk = drawn(
        shape := (batch, 2 * half_height, 2 * half_width, channels),
        filters := (3, 3, channels, features),
        (*shape[:3], features),
        shape,
        filters,
    )
    close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
    expected, pull = jax.vjp(reference, x, kernel)
    value, pull_ours = jax.vjp(convolution.winograd, x, kernel)
    close(value, expected)
    for ours, theirs in zip(pull_ours(ct), pull(ct), strict=True):
        close(ours, theirs)
    push, push_ours = (jax.jvp(f, (x, kernel), (dx, dk))[1] for f in (reference, convolution.winograd))
    close(push_ours, push)


def test_rounding_stays_small():
    x, kernel = drawn((4, 8, 8, 256), (3, 3, 256, 64))
    exact = np.asarray(reference(x, kernel), np.float64)
    assert np.abs(convolution.winograd(x, kernel) - exact).max() < 1e-5 * np.abs(exact).max()


@pytest.fixture
def chosen(monkeypatch):
    """How often Winograd's way was taken."""
    calls = []
    winograd = convolution.winograd
    monkeypatch.setattr(convolution, "winograd", lambda *a: (calls.append(a[0].shape), winograd(*a))[1])
    return calls


def test_a_wide_layer_takes_it_and_nothing_else_changes(chosen, monkeypatch):
    (x,) = drawn((2, 8, 8, 64))
    layer = conv(64, 3, jnp.float32, "layer")
    variables = layer.init(jax.random.key(0), x)
    fast = layer.apply(variables, x)
    assert len(chosen) == 2  # init runs the layer too
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    plain = layer.apply(variables, x)
    assert len(chosen) == 2
    np.testing.assert_allclose(fast, plain, atol=1e-5)


def test_a_large_batch_is_cut_where_there_is_one_device(monkeypatch):
    x, kernel = drawn((6, 32, 32, 64), (3, 3, 64, 64))
    assert convolution.chunks(x) == 1
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert [convolution.chunks(x[:n]) for n in (1, 4, 5, 6)] == [1, 1, 5, 2]
    arguments = dict(dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=1)
    ours = partial(
        convolution.convolve, strides=(1, 1), padding="SAME", lhs_dilation=(1, 1), rhs_dilation=(1, 1), **arguments
    )
    value, pull = jax.vjp(ours, x, kernel)
    expected, pull_expected = jax.vjp(reference, x, kernel)
    np.testing.assert_allclose(value, expected, atol=1e-5 * np.abs(expected).max())
    for mine, theirs in zip(pull(expected), pull_expected(expected), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.parametrize(
    ("shape", "size", "dtype"),
    [
        ((2, 7, 8, 64), 3, jnp.float32),  # an odd height
        ((2, 8, 8, 64), 1, jnp.float32),
        ((2, 8, 8, 64), 3, jnp.bfloat16),
        ((2, 8, 8, 8), 3, jnp.float32),  # too few channels to pay
        ((1, 256, 256, 64), 3, jnp.float32),  # too large to pay
    ],
)
def test_where_it_cannot_be_had_or_does_not_pay(chosen, shape, size, dtype):
    layer = conv(64, size, dtype, "layer")
    assert jax.eval_shape(layer.init_with_output, jax.random.key(0), jnp.zeros(shape, dtype))[0].shape == (
        *shape[:3],
        64,
    )
    assert not chosen


def test_on_several_devices_each_convolves_its_own_pictures(chosen):
    mesh = parallel.device_mesh()
    x, kernel = drawn((16, 8, 8, 64), (3, 3, 64, 64))
    split = jax.NamedSharding(mesh, PartitionSpec("data"))

    def gradient(x, kernel):
        return jax.grad(lambda x: jnp.sum(jnp.square(convolution.winograd(x, kernel))))(x)

    compiled = jax.jit(gradient, in_shardings=(split, None), out_shardings=split).lower(x, kernel).compile()
    for exchange in ("all-gather", "all-to-all", "collective-permute", "all-reduce"):
        assert exchange not in compiled.as_text()


def test_computed_once_is_on_cpu_alone(monkeypatch):
    barrier = "optimization_barrier"
    assert barrier in str(jax.make_jaxpr(fusion.computed_once)(jnp.zeros(2)))
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert barrier not in str(jax.make_jaxpr(lambda x: fusion.computed_once(x))(jnp.zeros(2)))
