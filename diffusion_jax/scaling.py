"""What a training step has its devices tell each other: bytes of every collective, against the least there could be.

Simulated devices say nothing about time. What they do say is in the compiled program, whatever it would run on: which
collectives there are, how often they run, and how many bytes each of them moves.
"""

import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import jax
from ml_collections import ConfigDict
from tqdm import tqdm

from diffusion_jax import build, placement
from diffusion_jax.agreement import versions
from diffusion_jax.collectives import Collective, collectives
from diffusion_jax.dry_run import abstract_batch
from diffusion_jax.experiment import Experiment
from diffusion_jax.files import write_json

FLAG = "--xla_force_host_platform_device_count"
LAYOUTS = {  # for n devices: what of a config says so, and from how many devices on it is something else
    "data": (1, lambda n, batch: dict(parallel=dict(name="jit", mesh=dict(data=n)))),
    "fsdp": (2, lambda n, batch: dict(parallel=dict(name="jit", mesh=dict(data=1, fsdp=n)))),
    "data x fsdp": (4, lambda n, batch: dict(parallel=dict(name="jit", mesh=dict(data=2, fsdp=n // 2)))),
    "tensor": (2, lambda n, batch: dict(parallel=dict(name="jit", mesh=dict(data=n // 2, tensor=2)))),
    "pmap": (2, lambda n, batch: dict(parallel=dict(name="pmap", mesh=dict(data=n)))),
    "microbatched": (2, lambda n, batch: dict(parallel=dict(name="jit", mesh=dict(data=n)), microbatch=batch // 2)),
}
QUICK = {"xla_backend_optimization_level": 0}  # machine code that never runs


def report(config: ConfigDict, devices: int, layouts: Sequence[str], out: str | None) -> dict:
    """Print what moves in one training step of each layout, and write it to `out` as JSON; returns it.

    Weak scaling: the batch grows with the devices, up to config.batch_size; strong scaling: it is that from the start.
    Raises ValueError for an unknown layout, a number of devices that is no power of two or that JAX does not have, and
    a batch that does not divide.
    """
    if unknown := [name for name in layouts if name not in LAYOUTS]:
        raise ValueError(f"--layouts: there is no {unknown[0]!r}; there are {', '.join(LAYOUTS)}")
    if devices < 2 or devices & (devices - 1):
        raise ValueError(f"--devices={devices}: give a power of two, from 2 on")
    parts = 2 if "microbatched" in layouts else 1
    if config.batch_size % (devices * parts):
        raise ValueError(
            f"batch_size={config.batch_size} does not divide among {devices} devices in {parts} parts: set "
            f"--config.batch_size to a multiple of {devices * parts}"
        )
    found, experiment, known = simulated(devices), build.build(config), {}
    tables: dict[str, list[dict]] = {"weak": [], "strong": []}
    counts = [2**n for n in range(devices.bit_length())]
    programs = [
        (kind, layout, count, batch)
        for layout in layouts
        for count in counts
        if count >= LAYOUTS[layout][0]
        for kind, batch in (("weak", config.batch_size * count // devices), ("strong", config.batch_size))
    ]
    for kind, layout, count, batch in tqdm(programs, "compiling", unit="program", disable=not sys.stderr.isatty()):
        key = (layout, count, batch)
        known[key] = known.get(key) or moved(config, experiment, layout, batch, found[:count])
        tables[kind].append(known[key])
    for kind, rows in tables.items():
        print(f"\n{kind} scaling: bytes that each device sends in one step\n\n{table(rows)}", flush=True)
    print(
        f"\nwhat is sent, on {devices} devices\n\n" + breakdown([r for r in tables["weak"] if r["devices"] == devices])
    )
    figures = {"what": "scale", **tables, "versions": versions()}
    if out is not None:
        write_json(Path(out), figures)
    return figures


def simulated(count: int) -> list[jax.Device]:
    """So many devices: real ones where there are enough, or else simulated on the CPU.

    Raises ValueError where there are neither, since JAX had counted its devices before.
    """
    if FLAG not in os.environ.get("XLA_FLAGS", ""):  # it is read when JAX first looks for devices
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAG}={count}".strip()
    found = jax.devices() if len(jax.devices()) >= count else jax.devices("cpu")
    if len(found) < count:
        raise ValueError(
            f"there are {len(found)} devices here, not {count}: set XLA_FLAGS={FLAG}={count}, which simulates them"
        )
    return found[:count]


def moved(config: ConfigDict, experiment: Experiment, layout: str, batch: int, devices: Sequence[jax.Device]) -> dict:
    """What one step of a layout moves, from its compiled program."""
    config = ConfigDict(config.to_dict(), convert_dict=True)
    config.update(batch_size=batch, microbatch=0)
    for name, value in LAYOUTS[layout][1](len(devices), batch).items():
        config[name] = value
    where = placement.placed(experiment, placement.mesh_of(config, devices))
    key = jax.eval_shape(lambda: jax.random.key(0))
    lowered = placement.compiled_step(config, experiment, where).lower(
        where.shapes, abstract_batch(config, experiment), key
    )
    found = collectives(lowered.compile(QUICK).as_text(), dict(where.mesh.shape))
    ideal = least(where, experiment.fixed)
    sent = sum(each.sent for each in found)
    return {
        "layout": layout,
        "mesh": dict(where.mesh.shape),
        "devices": len(devices),
        "batch": batch,
        "collectives": summed(found),
        "sent": sent,
        "sent_by_all_for_each_example": sent * len(devices) / batch,
        "least": ideal,
    }


def least(where: placement.Placed, fixed: Sequence[str] = ()) -> dict[str, float]:
    """Bytes that each device must send in a step for parameters to be there and gradients to be summed.

    A whole parameter: one all-reduce of its gradient among the devices that have different rows. One that is cut over
    fsdp: an all-gather in the forward pass and another in the backward pass, a reduce-scatter of its gradient, and an
    all-reduce of a part of that over data (Rajbhandari et al. 2020, ZeRO, section 7). By ring algorithms, as in
    `Collective.sent`. What the tensor axis has to tell of activations is not in it. fixed: has no gradient.
    """
    data, fsdp = where.mesh.shape["data"], where.mesh.shape["fsdp"]
    sums = dict.fromkeys(("all-gather", "reduce-scatter", "all-reduce"), 0.0)

    def add(kind: str, payload: float, group: int, times: int = 1) -> None:
        sums[kind] += times * Collective(kind, 1, group, (), True, 1).sent * payload

    for part, shapes in where.shapes.params.items():
        for leaf, sharding in zip(jax.tree.leaves(shapes), jax.tree.leaves(where.shardings.params[part]), strict=True):
            cut = "fsdp" in sharding.spec
            size = leaf.size * leaf.dtype.itemsize / (where.mesh.shape["tensor"] if "tensor" in sharding.spec else 1)
            if cut:
                add("all-gather", size, fsdp, times=1 if part in fixed else 2)
            if part in fixed:
                continue
            if cut:
                add("reduce-scatter", size, fsdp)
                add("all-reduce", size / fsdp, data)
            else:
                add("all-reduce", size, data * fsdp)
    return {kind: size for kind, size in sums.items() if size}


def summed(found: Sequence[Collective]) -> list[dict]:
    """The collectives of one kind, along the same axes and in the same loop, together."""
    alike = Counter((each.kind, each.axes, each.whole, each.times) for each in found)
    rows = []
    for (kind, axes, whole, times), count in alike.items():
        of_it = [each for each in found if (each.kind, each.axes, each.whole, each.times) == (kind, axes, whole, times)]
        rows.append(
            {
                "kind": kind,
                "axes": list(axes) if whole else [f"part of {' and '.join(axes)}"],
                "count": count,
                "times": "in a loop" if times is None else times,
                "payload": sum(each.payload for each in of_it),
                "sent": sum(each.sent for each in of_it),
            }
        )
    return sorted(rows, key=lambda row: -row["sent"])


def table(rows: Sequence[dict]) -> str:
    """One line for each layout and number of devices; against the least that there must be."""
    heads = ("layout", "devices", "batch", "collectives", "sent", "least", "ratio", "by all, for each example")
    lines = [heads]
    for row in rows:
        needed = sum(row["least"].values())
        runs = sum(
            each["count"] * (each["times"] if each["times"] != "in a loop" else 1) for each in row["collectives"]
        )
        ratio = f"{row['sent'] / needed:.2f}" if needed else ""
        example = f"{row['sent_by_all_for_each_example']:,.0f}"
        sizes = f"{row['sent']:,.0f}", f"{needed:,.0f}", ratio, example
        lines.append((row["layout"], str(row["devices"]), str(row["batch"]), str(runs), *sizes))
    return aligned(lines)


def breakdown(rows: Sequence[dict]) -> str:
    """What the sums in the table are made of."""
    lines = [("layout", "collective", "along", "how many", "times", "payload", "sent")]
    for row in rows:
        for each in row["collectives"]:
            sizes = f"{each['payload']:,.0f}", f"{each['sent']:,.0f}"
            along = " x ".join(each["axes"])
            lines.append((row["layout"], each["kind"], along, str(each["count"]), str(each["times"]), *sizes))
    return aligned(lines)


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Columns, those of numbers to the right."""
    columns = []
    for column in zip(*lines, strict=True):
        width = max(map(len, column))
        numbers = any(text[:1].isdigit() for text in column[1:])
        columns.append([text.rjust(width) if numbers else text.ljust(width) for text in column])
    return "\n".join("  ".join(line).rstrip() for line in zip(*columns, strict=True))
