"""Memory predicted from equations: known programs, and a training step beside what XLA says it needs."""

import importlib
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from diffusion_jax import build, placement
from diffusion_jax.models.backend import traced_for
from diffusion_jax.plan import memory
from diffusion_jax.plan.activations import activations
from diffusion_jax.plan.prediction import trace_step
from diffusion_jax.training import parallel

SQUARE = 4 * 8 * 8  # bytes of x


def peak(function, *arguments, **settings):
    return max(memory.timeline(jax.make_jaxpr(function)(*arguments).jaxpr, **settings))


def test_products_are_kept_until_they_are_last_read_and_elementwise_chains_are_not():
    x = jnp.ones((8, 8))
    assert peak(lambda x: x @ x, x) == SQUARE
    assert peak(lambda x: ((x @ x) @ x) @ x, x) == 2 * SQUARE  # what is read and what is written
    assert peak(lambda x: jnp.tanh(-(x + 1) * 2), x) == SQUARE  # one result, and nothing on the way
    a = jnp.ones((8, 8))

    def held(x):
        first = x @ a
        return first @ (first @ a)

    assert peak(held, x) == 3 * SQUARE


def test_an_operand_of_a_product_is_in_memory_as_it_is_read():
    x = jnp.ones((8, 8))
    assert peak(lambda x: x.astype(jnp.bfloat16) @ jnp.ones((8, 8), jnp.bfloat16), x) >= SQUARE // 2 + SQUARE // 2


def test_checkpointing_a_deep_network_needs_less():
    x, w = jnp.ones((64, 8)), jnp.ones((8, 8))

    def loss(block):
        def run(w, x):
            for _ in range(6):
                x = block(x, w)
            return x.sum()

        return jax.grad(run)

    def block(x, w):
        for _ in range(4):
            x = jnp.tanh(x @ w)
        return x

    assert peak(loss(jax.checkpoint(block)), w, x) < 0.6 * peak(loss(block), w, x)


def test_parts_are_brought_together_and_results_are_cut_again():
    x = jnp.ones((8, 8))
    whole = peak(lambda w, x: x @ w, x, x)
    assert peak(lambda w, x: x @ w, x, x, gathered=[True, False]) == whole + SQUARE
    times = memory.timeline(
        jax.make_jaxpr(lambda w, x: (x @ w, w @ w @ x))(x, x).jaxpr, result_bytes=lambda place, size: size // 8
    )
    assert times[0] == SQUARE
    assert times[-1] <= 2 * SQUARE + SQUARE // 8


def placed(name, batch_size, mesh, **denoiser):
    config = importlib.import_module(f"experiments.{name}").get_config()
    config.batch_size = batch_size
    config.denoiser.update(denoiser)
    experiment = build.build(config)
    return SimpleNamespace(config=config, experiment=experiment, where=placement.placed(experiment, mesh))


def test_any_number_of_pictures_is_predicted_from_two():
    with traced_for("tpu"):
        of = placed("tiny", 8, parallel.planned_mesh(1))
        found = activations(of.config, of.experiment, of.where)
        jaxpr = jax.make_jaxpr(jax.grad(lambda *arguments: of.experiment.loss(*arguments)[0]))
        batch = {
            "image": jnp.zeros((32, 16, 16, 3), jnp.uint8),
            "tokens": jnp.zeros((32, 40), jnp.int32),
            "mask": jnp.ones((32, 40), bool),
        }
        keys = jax.random.split(jax.random.key(0), 32)
        times = memory.timeline(jaxpr(of.where.shapes.params, batch, keys).jaxpr)
    np.testing.assert_allclose(found.at(32), max(times), rtol=0.01)
    most = found.most(10 * 2**20)
    assert found.at(most) <= 10 * 2**20 < found.at(most + 1)
    assert found.most(100) == 0


@pytest.mark.parametrize(("devices", "fsdp"), [(1, 1), (8, 8)])
def test_a_small_step_needs_what_is_predicted(devices, fsdp):
    mesh = parallel.device_mesh(fsdp=fsdp, devices=jax.devices()[:devices])
    with traced_for("tpu"):
        of = placed("tiny", 16 * devices, mesh, channels=32)
        stats = trace_step(of.config, of.experiment, of.where).lower().compile().memory_analysis()
        predicted = activations(of.config, of.experiment, of.where).at(16)
    print(devices, predicted / 2**20, stats.temp_size_in_bytes / 2**20)
    assert predicted == pytest.approx(stats.temp_size_in_bytes, rel=0.3)
    assert any(sharding.spec != PartitionSpec() for sharding in jax.tree.leaves(of.where.shardings)) == (fsdp > 1)
