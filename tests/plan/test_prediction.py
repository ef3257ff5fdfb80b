"""The figures of a plan, beside what is compiled where that is small, and its arithmetic."""

import importlib

import jax
import pytest

from diffusion_jax import build, placement
from diffusion_jax.dry_run import abstract_batch
from diffusion_jax.models.backend import traced_for
from diffusion_jax.plan import page
from diffusion_jax.plan.hardware import KINDS
from diffusion_jax.plan.prediction import figures, trace_step
from diffusion_jax.training import parallel


@pytest.fixture
def small(config):
    config.parallel.mesh.fsdp = 4
    config.batch_size = 16
    return config


def test_the_state_is_what_the_arguments_of_a_compiled_step_take(small):
    mesh = placement.mesh_of(small, devices=jax.devices())
    experiment = build.build(small)
    compiled = trace_step(small, experiment, placement.placed(experiment, mesh)).lower().compile()
    need = figures(small, 8, "h100", 0.5)["memory"]
    state = sum(need[name] for name in ("parameters", "their average", "moments", "batch"))
    taken = compiled.memory_analysis().argument_size_in_bytes
    assert state <= taken <= state + 64  # and the random key


def test_time_and_money_follow_from_operations_and_assumptions(small):
    found = figures(small, 8, "H100", 0.5, images=1_000_000, price=2.0)
    seconds = found["flop"]["total"] / (8 * KINDS["h100"].flop_per_second * 0.5)
    assert found["seconds of a step"] == pytest.approx(seconds)
    hours = seconds * 1_000_000 / 16 / 3600
    assert found["days"] == pytest.approx(hours / 24)
    assert found["dollars"] == pytest.approx(8 * hours * 2.0)
    assert figures(small, 8, "h100", 0.5)["images"] == small.train.steps * 16
    assert found["mesh"] == {"data": 2, "fsdp": 4, "tensor": 1}
    assert found["fits"]


def test_operations_do_not_depend_on_the_devices_nor_much_on_microbatches(small):
    once = figures(small, 8, "v5p", 0.5)["flop"]
    assert figures(small, 16, "h100", 0.5)["flop"] == once
    small.microbatch = 8
    parts = figures(small, 8, "v5p", 0.5)
    assert parts["flop"]["products"] == pytest.approx(once["products"], rel=0.01)
    assert parts["memory"]["sums of gradients"] == parts["memory"]["parameters"]


def test_pmap_is_planned_as_the_same_step(small):
    small.parallel.mesh.fsdp = 1
    jitted = figures(small, 8, "v5p", 0.5)
    small.parallel.name = "pmap"
    assert figures(small, 8, "v5p", 0.5) == jitted


def test_what_does_not_fit_is_told_what_would(small, monkeypatch):
    small.batch_size = 128
    needed = figures(small, 8, "v5e", 0.5)["memory"]
    other = needed["in all"] - needed["gradients and activations"]

    def with_memory(size):
        monkeypatch.setitem(KINDS, "v5e", KINDS["v5e"]._replace(memory=int(size)))
        return figures(small, 8, "v5e", 0.5)

    tight = with_memory((needed["in all"] - 1) / 0.9)
    assert not tight["fits"]
    assert tight["largest"] == {"pictures at once on each device": 15, "microbatch": 64}
    assert "config.microbatch=64 would" in page.verdict(tight)
    small.microbatch = 64
    assert with_memory((needed["in all"] - 1) / 0.9)["fits"]  # as was said
    small.microbatch = 0
    tighter = with_memory(other * 1.3)  # enough for state and gradients if more devices share them, and for no picture
    assert tighter["largest"]["microbatch"] == 0
    assert "no fsdp" in page.verdict(with_memory(1000))


def test_bad_arguments_are_named(small):
    for arguments, said in [
        ((8, "h1000", 0.5), "did you mean h100"),
        ((8, "abacus", 0.5), "it is one of v4, v5e"),
        ((0, "h100", 0.5), "--devices=0"),
        ((8, "h100", 0.0), "--utilization=0"),
        ((8, "h100", 1.1), "--utilization=1.1"),
        ((8, "h100", 0.5, 0), "--images=0"),
        ((8, "h100", 0.5, 1, -1.0), "--price=-1"),
        ((6, "h100", 0.5), "does not multiply to 6 devices"),
        ((64, "h100", 0.5), "batch_size=16 does not divide among 64"),
    ]:
        with pytest.raises(ValueError, match=said):
            figures(small, *arguments)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "billions", "fsdp"), [("imagen64", 2.19, 16), ("unet8b", 8.38, 32)])
def test_large_models_are_lowered_for_256_devices_that_are_not_there(name, billions, fsdp):
    config = importlib.import_module(f"experiments.{name}").get_config()
    config.parallel.mesh.fsdp = fsdp
    with traced_for("tpu"):
        experiment = build.build(config)
        where = placement.placed(experiment, placement.mesh_of(config, planned=256))
        traced = trace_step(config, experiment, where)
    assert sum(leaf.size for leaf in jax.tree.leaves(where.shapes.params)) == pytest.approx(billions * 1e9, rel=0.01)
    lowered = traced.lower(lowering_platforms=("tpu",))
    text = lowered.as_text()
    assert "num_partitions = 256" in text
    assert f'"fsdp"={fsdp}' in text
    found = figures(config, 256, "v5p", 0.35)
    assert found["flop"]["total"] == pytest.approx(lowered.cost_analysis()["flops"], rel=0.01)
    assert found["fits"]
    rows = parallel.rows_in(where.mesh)
    assert found["memory"]["batch"] * rows == pytest.approx(
        sum(a.size * a.dtype.itemsize for a in abstract_batch(config, experiment).values())
    )
