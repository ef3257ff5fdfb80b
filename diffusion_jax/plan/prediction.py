"""What a training needs and costs on devices that are not there: everything is traced, nothing compiled or computed."""

import jax
from ml_collections import ConfigDict

from diffusion_jax import build, placement
from diffusion_jax.dry_run import abstract_batch, count
from diffusion_jax.experiment import Experiment
from diffusion_jax.models.backend import traced_for
from diffusion_jax.placement import Placed
from diffusion_jax.plan import flop
from diffusion_jax.plan.activations import activations
from diffusion_jax.plan.hardware import kind_of
from diffusion_jax.training import parallel
from diffusion_jax.training.layout import bytes_on_each, layout

USABLE = 0.9  # of a device's memory: the rest is for its runtime, for fragments, and for what the prediction misses


def figures(
    config: ConfigDict,
    devices: int,
    kind: str,
    utilization: float,
    images: int | None = None,
    price: float | None = None,
) -> dict:
    """Parameters, operations, memory, time and money of a training, as numbers; bytes, seconds, dollars.

    utilization: of the devices' peak, in (0, 1]. images: how many are trained on; None: config.train.steps batches.
    price: dollars for an hour of a device; None: that of the table.
    Raises ValueError where an argument makes no sense, or the config does not fit the devices.
    """
    device = kind_of(kind)
    check(devices, utilization, images, price)
    mesh = placement.mesh_of(config, planned=devices)
    with traced_for(device.backend):
        experiment = build.build(config)
        where = placement.placed(experiment, mesh)
        traced = trace_step(config, experiment, where)
        kept = activations(config, experiment, where)
    work = flop.count(traced.jaxpr.jaxpr)
    at_once = (config.get("microbatch", 0) or config.batch_size) // parallel.rows_in(mesh)
    need = memory_of(config, where, experiment, kept, at_once)
    room = USABLE * device.memory - (need["in all"] - need["gradients and activations"])
    seconds = work.total / (devices * device.flop_per_second * utilization)
    images = config.train.steps * config.batch_size if images is None else images
    steps = images / config.batch_size
    price = device.price if price is None else price
    sums = 0 if "sums of gradients" in need else need["parameters"]  # which a batch in parts takes as well
    most, in_parts = kept.most(int(room)), kept.most(int(room) - sums)
    return {
        "devices": devices,
        "kind": kind.lower(),
        "mesh": dict(mesh.shape),
        "batch_size": config.batch_size,
        "pictures at once on each device": at_once,
        "parameters": count(where.shapes.params),
        "flop": work._asdict() | {"total": work.total, "of each picture": work.total / config.batch_size},
        "memory": need,
        "memory of a device": device.memory,
        "fits": need["in all"] <= USABLE * device.memory,
        "largest": {
            "pictures at once on each device": most,
            "microbatch": largest_part(config.batch_size, in_parts, parallel.rows_in(mesh)),
        },
        "smallest fsdp whose state fits": smallest_fsdp(where, devices, USABLE * device.memory),
        "utilization": utilization,
        "peak": device.flop_per_second,
        "seconds of a step": seconds,
        "images": images,
        "steps": steps,
        "days": seconds * steps / 86400,
        "device hours": seconds * steps * devices / 3600,
        "price": price,
        "dollars": seconds * steps * devices / 3600 * price,
    }


def largest_part(batch_size: int, at_once: int, rows: int) -> int:
    """The most examples, into so many of which a batch can be cut, that are no more at once on each device; 0: none."""
    each = batch_size // rows
    return rows * max((n for n in range(1, min(at_once, each) + 1) if each % n == 0), default=0)


def check(devices: int, utilization: float, images: int | None, price: float | None) -> None:
    """Raise ValueError, naming the flag, for an argument that makes no sense."""
    if devices < 1:
        raise ValueError(f"--devices={devices}: there has to be one at least")
    if not 0 < utilization <= 1:
        raise ValueError(f"--utilization={utilization:g}: it is a share of the peak, above 0 and at most 1")
    if images is not None and images < 1:
        raise ValueError(f"--images={images}: training takes one at least; without the flag, the config's steps count")
    if price is not None and price < 0:
        raise ValueError(f"--price={price:g}: an hour of a device costs something, or 0")


def trace_step(config: ConfigDict, experiment: Experiment, where: Placed):
    """The whole training step of all devices, traced; `.lower(lowering_platforms=("tpu",))` goes on from there."""
    mapped = config.copy_and_resolve_references()
    if "parallel" in mapped:
        mapped.parallel.name = "jit"  # pmap computes the same, but wants devices that are there
    key = jax.eval_shape(lambda: jax.random.key(0))
    return placement.compiled_step(mapped, experiment, where).trace(
        where.shapes, abstract_batch(config, experiment), key
    )


def memory_of(config: ConfigDict, where: Placed, experiment: Experiment, kept, at_once: int) -> dict[str, int]:
    """Bytes on each device. The state is exact, the rest predicted."""
    batch = jax.tree.leaves(abstract_batch(config, experiment))
    params, moments = where.shapes.params, where.shapes.opt_state
    need = {
        "parameters": bytes_on_each(params, where.shardings.params),
        "their average": bytes_on_each(where.shapes.ema_params, where.shardings.ema_params),
        "moments": bytes_on_each(moments, where.shardings.opt_state),
        "batch": sum(leaf.size * leaf.dtype.itemsize for leaf in batch) // parallel.rows_in(where.mesh),
    }
    if at_once * parallel.rows_in(where.mesh) < config.batch_size:
        need["sums of gradients"] = need["parameters"]
    need["gradients and activations"] = kept.at(at_once)
    return need | {"in all": sum(need.values())}


def smallest_fsdp(where: Placed, devices: int, memory: float) -> int:
    """The least fsdp, beside the mesh's tensor, by which state, gradients and gathered parameters fit; 0: none."""
    tensor, params = where.mesh.shape["tensor"], where.shapes.params
    whole = bytes_on_each(params, layout(params, parallel.planned_mesh(devices, tensor=tensor)))
    for fsdp in (n for n in range(1, devices // tensor + 1) if devices // tensor % n == 0):
        mesh = parallel.planned_mesh(devices, fsdp=fsdp, tensor=tensor)
        gradients = bytes_on_each(params, layout(params, mesh)) + (whole if fsdp > 1 else 0)
        if bytes_on_each(where.shapes, layout(where.shapes, mesh)) + gradients <= memory:
            return fsdp
    return 0
