"""Operations counted from equations, beside XLA's own count of the same program."""

import importlib

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from diffusion_jax import build, placement
from diffusion_jax.models.backend import traced_for
from diffusion_jax.plan import flop
from diffusion_jax.plan.prediction import trace_step
from diffusion_jax.training import parallel

NHWC = ("NHWC", "HWIO", "NHWC")


def counted(function, *arguments):
    return flop.count(jax.make_jaxpr(function)(*arguments).jaxpr)


def of_xla(function, *arguments):
    return jax.jit(function).lower(*arguments).cost_analysis()["flops"]


@pytest.mark.parametrize(
    ("strides", "padding", "holes", "apart", "groups"),
    [
        ((1, 1), "SAME", (1, 1), (1, 1), 1),
        ((1, 1), "VALID", (1, 1), (1, 1), 1),
        ((2, 2), "SAME", (1, 1), (1, 1), 1),
        ((1, 2), ((2, 0), (1, 3)), (1, 1), (1, 2), 1),
        ((1, 1), ((2, 2), (1, 2)), (2, 2), (1, 1), 1),
        ((1, 1), ((-1, 2), (1, 1)), (1, 3), (2, 1), 1),
        ((1, 1), "SAME", (1, 1), (1, 1), 2),
    ],
)
def test_convolutions_and_their_gradients_are_counted_as_xla_counts_them(strides, padding, holes, apart, groups):
    x, kernel = jnp.ones((2, 6, 5, 4)), jnp.ones((3, 3, 4 // groups, 6))

    def convolve(x, kernel):
        return lax.conv_general_dilated(x, kernel, strides, padding, holes, apart, NHWC, groups)

    def gradients(x, kernel):
        result, pull = jax.vjp(convolve, x, kernel)
        return pull(result)

    assert counted(convolve, x, kernel).products == of_xla(convolve, x, kernel)
    assert counted(gradients, x, kernel).products == of_xla(gradients, x, kernel)


def test_matrix_products_are_counted_as_xla_counts_them():
    a, b = jnp.ones((3, 4, 5)), jnp.ones((3, 5, 6))
    assert counted(jnp.matmul, a, b).products == of_xla(jnp.matmul, a, b) == 2 * 3 * 4 * 5 * 6


def test_arithmetic_and_exponentials_are_apart():
    found = counted(lambda x: jnp.sum(jnp.exp(x) * x + 1), jnp.ones((7, 3)))
    assert found == flop.Flop(products=0, other=21 + 21 + 20, transcendental=21, endless=0)


def test_loops_are_multiplied_and_what_is_unused_is_left_out():
    a = jnp.eye(4)

    def turn(x, _):
        return x @ a, None

    once = 2 * 4**3
    assert counted(lambda x: lax.scan(turn, x, length=5)[0], a).products == 5 * once
    assert counted(lambda x: (x @ x @ x, x)[1], a).products == 0
    assert counted(lambda x: jax.checkpoint(jax.jit(jnp.matmul))(x, x), a).products == once
    assert counted(lambda x: lax.cond(x[0, 0] > 0, lambda x: x @ x, lambda x: x, x), a).products == once
    endless = counted(lambda x: lax.while_loop(lambda x: x[0, 0] < 9, lambda x: x @ x, x), a)
    assert (endless.products, endless.endless) == (once, 1)


def config_of(name, batch_size, **denoiser):
    module, *arguments = name.split(":")
    config = importlib.import_module(f"experiments.{module}").get_config(*arguments)
    config.batch_size = batch_size
    config.denoiser.update(denoiser)
    return config


@pytest.mark.parametrize(
    ("name", "batch_size", "backend", "changes"),
    [
        ("tiny", 16, "tpu", dict(remat="nothing_saveable")),
        ("demo", 8, "cpu", {}),  # Winograd's convolutions
        ("emoji32:bytes", 8, "gpu", {}),
    ],
)
def test_a_training_step_is_within_5_percent_of_xlas_cost_analysis(name, batch_size, backend, changes):
    config = config_of(name, batch_size, **changes)
    with traced_for(backend):
        experiment = build.build(config)
        where = placement.placed(experiment, parallel.device_mesh(devices=jax.devices()[:1]))
        traced = trace_step(config, experiment, where)
    ours = flop.count(traced.jaxpr.jaxpr)
    assert ours.endless == 0
    lowered = traced.lower()
    assert ours.total == pytest.approx(lowered.cost_analysis()["flops"], rel=0.02)  # before XLA changes anything
    assert ours.total == pytest.approx(lowered.compile().cost_analysis()["flops"], rel=0.05)


def test_a_large_step_is_within_1_percent_before_xla_changes_anything():
    config = config_of("emoji64", 16)
    with traced_for("tpu"):
        experiment = build.build(config)
        where = placement.placed(experiment, parallel.planned_mesh(16))
        traced = trace_step(config, experiment, where)
    of_xla = traced.lower(lowering_platforms=("tpu",)).cost_analysis()["flops"]
    assert flop.count(traced.jaxpr.jaxpr).total == pytest.approx(of_xla, rel=0.01)
