"""What a training step has its devices tell each other, in the compiled program of each layout."""

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh

from diffusion_jax import build, placement, scaling
from diffusion_jax.collectives import Collective
from diffusion_jax.training import layout, parallel


@pytest.fixture
def moved(config):
    """What one step of a small model moves, by layout: so small that all of it would be whole, were it not for us."""
    experiment = build.build(config)

    def measure(name, batch=16, count=8):
        return scaling.moved(config, experiment, name, batch, jax.devices()[:count])

    return measure


@pytest.fixture(autouse=True)
def small_leaves_are_cut(monkeypatch):
    monkeypatch.setattr(layout, "SMALLEST", 2**7)


def parts_of(row):
    return {(each["kind"], *each["axes"]): each for each in row["collectives"]}


def test_data_parallel_has_one_all_reduce_and_nothing_else(moved):
    """Of all gradients together, and of the few metrics with them."""
    row = moved("data")
    (only,) = row["collectives"]
    assert (only["kind"], only["axes"], only["count"], only["times"]) == ("all-reduce", ["data"], 1, 1)
    gradients = row["least"]["all-reduce"]
    assert list(row["least"]) == ["all-reduce"]
    assert gradients <= row["sent"] <= gradients + 1000
    assert row["sent_by_all_for_each_example"] == row["sent"] * 8 / 16


def test_pmap_has_one_all_reduce_too(moved):
    row = moved("pmap")
    (only,) = row["collectives"]
    assert (only["kind"], only["axes"], only["count"], only["times"]) == ("all-reduce", ["data"], 1, 1)
    assert row["sent"] == pytest.approx(row["least"]["all-reduce"], rel=0.01)


def test_fsdp_gathers_each_parameter_once_and_sums_all_gradients_together(moved):
    """An all-gather of what is cut, one all-reduce of gradients, one of scalars: the parts of two norms.

    The summed gradients are then cut: that all-reduce and cut are a reduce-scatter. XLA makes one of them on GPUs and
    TPUs, on CPUs it does not, and sends twice as much there. On the other hand the parameters that were gathered for
    the forward pass are still there in the backward pass, where the least counts a second all-gather: to hold less.
    """
    row = moved("fsdp")
    found = parts_of(row)
    assert set(found) == {("all-gather", "fsdp"), ("all-reduce", "fsdp")}
    gathered, summed = found["all-gather", "fsdp"], found["all-reduce", "fsdp"]
    assert summed["count"] == 2
    assert gathered["sent"] == pytest.approx(row["least"]["all-gather"] / 2)
    whole, cut = row["least"]["all-reduce"], row["least"]["reduce-scatter"]
    assert whole + 2 * cut <= summed["sent"] <= whole + 2 * cut + 2000
    assert {each["times"] for each in row["collectives"]} == {1}


def test_data_and_fsdp_together(moved):
    """Gathers stay within the groups of fsdp; gradients are summed among all."""
    row = moved("data x fsdp")
    found = parts_of(row)
    assert set(found) == {("all-gather", "fsdp"), ("all-reduce", "data", "fsdp"), ("all-reduce", "fsdp")}
    assert found["all-reduce", "data", "fsdp"]["count"] == 1
    assert found["all-reduce", "fsdp"]["payload"] < 1000  # norms
    assert found["all-gather", "fsdp"]["sent"] == pytest.approx(row["least"]["all-gather"] / 2)


def test_microbatches_sum_their_gradients_each_time_on_cpus(moved):
    """One all-reduce, in the loop over two parts. On GPUs XLA moves it out of the loop; on CPUs it does not."""
    row = moved("microbatched")
    (only,) = row["collectives"]
    assert (only["kind"], only["axes"], only["count"], only["times"]) == ("all-reduce", ["data"], 1, 2)
    assert row["sent"] == pytest.approx(2 * row["least"]["all-reduce"], rel=0.02)


def test_tensor_moves_activations_and_so_more_with_more_rows(moved):
    few, many = moved("tensor", batch=8, count=2), moved("tensor", batch=16, count=2)
    assert {each["axes"][0] for each in few["collectives"]} == {"tensor"}
    assert few["sent"] < many["sent"]
    assert few["least"] == many["least"] == {}


def test_gathered_parameters_are_whole_but_for_tensor():
    mesh = parallel.device_mesh(data=2, fsdp=2, tensor=2)
    shapes = {"attention": {"q": {"kernel": jax.ShapeDtypeStruct((64, 64), np.float32)}}}
    shardings, seen = layout.layout(shapes, mesh), []

    def look(params):
        whole = layout.gathered(params, shardings)
        jax.debug.inspect_array_sharding(whole["attention"]["q"]["kernel"], callback=seen.append)
        return whole

    jax.jit(look, in_shardings=(shardings,)).lower(shapes).compile()
    assert shardings["attention"]["q"]["kernel"].shard_shape((64, 64)) == (32, 32)
    assert seen[0].shard_shape((64, 64)) == (64, 32)


def test_the_least_of_known_parameters():
    """1024 float32 that are cut and 16 that are not, 2 x 4 devices; with 1024 more of a part that is fixed."""
    mesh = AbstractMesh((2, 4, 1), layout.AXES)
    sizes = {"a": {"cut": (1024,), "whole": (3,)}, "fixed": {"cut": (1024,)}}
    params = {part: {n: jax.ShapeDtypeStruct(s, np.float32) for n, s in of.items()} for part, of in sizes.items()}
    from diffusion_jax.training.state import TrainState

    state = TrainState(jax.ShapeDtypeStruct((), np.int32), params, params, ())
    where = placement.Placed(mesh, state, layout.layout(state, mesh))
    assert scaling.least(where, ["fixed"]) == {
        "all-gather": 3 * 3 / 4 * 4096,  # forward and backward; what is fixed in the forward pass alone
        "reduce-scatter": 3 / 4 * 4096,
        "all-reduce": 4096 / 4 + 2 * 7 / 8 * 12,
    }


def test_summed_keeps_apart_what_runs_elsewhere_or_more_often():
    once = Collective("all-reduce", 100, 2, ("data",), True, 1)
    found = [
        once,
        once,
        once._replace(times=3),
        once._replace(times=None),
        once._replace(axes=("tensor",), whole=False),
    ]
    rows = scaling.summed(found)
    assert [(row["count"], row["times"], row["sent"], row["axes"]) for row in rows] == [
        (1, 3, 300, ["data"]),
        (2, 1, 200, ["data"]),
        (1, "in a loop", 100, ["data"]),
        (1, 1, 100, ["part of tensor"]),
    ]


@pytest.mark.parametrize(
    ("devices", "layouts", "batch", "said"),
    [
        (8, ["data", "rows"], 16, "--layouts: there is no 'rows'; there are data, fsdp"),
        (6, ["data"], 16, "--devices=6: give a power of two"),
        (1, ["data"], 16, "--devices=1: give a power of two"),
        (
            8,
            ["microbatched"],
            8,
            "batch_size=8 does not divide among 8 devices in 2 parts: set --config.batch_size to a",
        ),
        (8, ["data"], 12, "batch_size=12 does not divide among 8 devices in 1 parts"),
        (
            16,
            ["data"],
            16,
            "there are 8 devices here, not 16: set XLA_FLAGS=--xla_force_host_platform_device_count=16,",
        ),
    ],
)
def test_what_cannot_be_counted(config, devices, layouts, batch, said):
    config.batch_size = batch
    with pytest.raises(ValueError, match="^" + said.replace("(", r"\(")):
        scaling.report(config, devices, layouts, None)


def test_columns_of_numbers_stand_right():
    assert scaling.aligned([("name", "n"), ("a", "10"), ("bc", "7")]) == "name   n\na     10\nbc     7"
