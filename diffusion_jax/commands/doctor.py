"""Checks this machine: versions, devices, memory, caches, folders, data sets and a 3-second smoke step.

Prints one line a finding; where something is off, an arrow says what to do about it, and the exit code is 1.

  diffusion-jax doctor
  diffusion-jax doctor --workdir=runs/a --data_dir=/big/disk/data
"""

import importlib.metadata
import json
import math
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from absl import flags

PACKAGES = (
    "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets", "transformers", "numpy",
)  # fmt: skip
MIN_FREE = 2**30  # bytes: a checkpoint of the larger presets is about that
MIN_MEMORY = 2 * 2**30
SMOKE_SECONDS = 3.0


class Finding(NamedTuple):
    """One line of the report; advice says what to do when the finding is a fault, and is empty when all is well."""

    subject: str
    text: str
    advice: str = ""


def define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string("workdir", "runs", "Folder of the runs, or of one run: must be writable.", flag_values=values)
    flags.DEFINE_string("data_dir", "data", "Folder of the data sets: must be writable.", flag_values=values)
    flags.DEFINE_float("seconds", SMOKE_SECONDS, "How long the smoke step runs.", lower_bound=0.0, flag_values=values)


def run(args: flags.FlagValues) -> int:
    data_dir, workdir = Path(args.data_dir), Path(args.workdir)
    checks = {
        "versions": versions,
        "devices": devices,
        "memory": memory,
        "compile cache": compile_cache,
        "run folder": lambda: folder("run folder", workdir),
        "data folder": lambda: folder("data folder", data_dir),
        "data sets": lambda: datasets(data_dir),
        "smoke step": lambda: smoke(args.seconds),
    }
    faults = 0
    for finding in (finding for subject, check in checks.items() for finding in guarded(subject, check)):
        print(f"{finding.subject:<20} {finding.text}", flush=True)
        if finding.advice:
            faults += 1
            print(f"{'':<17}-> {finding.advice}", flush=True)
    print(f"\n{faults} thing{'s' * (faults > 1)} to mend: see the arrows" if faults else "\nall well")
    return int(faults > 0)


def guarded(subject: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """The findings of a check; a check that breaks is a finding too, and does not stop the others."""
    try:
        yield from check()
    except Exception as error:
        advice = "a library failed: is what it names installed, readable and not full?"
        yield Finding(subject, f"failed: {type(error).__name__}: {' '.join(str(error).split())[:300]}", advice)


def versions() -> Iterator[Finding]:
    """Python and the libraries, against the lower bounds in this package's own metadata."""
    from packaging.requirements import Requirement

    python = platform.python_version()
    slow = sys.version_info < (3, 12)
    yield Finding("python", python + " (3.12 or newer gets a JAX that is faster on CPUs)" * slow)
    wanted = {one.name.lower(): one for one in map(Requirement, importlib.metadata.requires("diffusion_jax") or [])}
    for name in PACKAGES:
        bound = wanted[name].specifier if name in wanted else ""
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, "missing", f'pip install "{name}{bound}"')
            continue
        fits = not bound or bound.contains(found, prereleases=True)
        yield Finding(name, found, "" if fits else f'pip install --upgrade "{name}{bound}"')


def devices() -> Iterator[Finding]:
    """What JAX computes on, and the mesh that a training step is spread over."""
    import jax

    found = jax.devices()
    kind = f"{len(found)} x {found[0].device_kind}, backend {jax.default_backend()}"
    idle_gpu = jax.default_backend() == "cpu" and os.path.exists("/dev/nvidia0") and not os.environ.get("JAX_PLATFORMS")
    yield Finding("devices", kind, 'a GPU lies idle: pip install "diffusion_jax[gpu]"' if idle_gpu else "")
    processes = jax.process_count()
    yield Finding("mesh", f"data = {len(found)} over {processes} process{'es' * (processes > 1)}")


def memory() -> Iterator[Finding]:
    """What is free on the host, inside a container's limit if there is one, and on each device."""
    import jax

    available = host_memory()
    if available is not None:
        advice = "close other programs, or use a smaller --config.batch_size" if available < MIN_MEMORY else ""
        yield Finding("host memory", f"{size_of(available)} available", advice)
    for device in jax.local_devices():
        stats = device.memory_stats() or {}  # CPUs have none: they use the host's
        if "bytes_limit" in stats:
            used, limit = stats.get("bytes_in_use", 0), stats["bytes_limit"]
            yield Finding(f"memory of {device.id}", f"{size_of(limit - used)} of {size_of(limit)} free")


def host_memory() -> int | None:
    """Bytes that a new program could use; None where the system does not tell (it is no Linux)."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    try:
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text()) - int((group / "memory.current").read_text())
    except (OSError, ValueError):  # no such limit, or the word "max"
        return available
    return min(available, limit)


def compile_cache() -> Iterator[Finding]:
    """Where compiled programs are kept, so that the second start of a run does not compile again."""
    import jax

    if not jax.config.jax_compilation_cache_dir:
        yield Finding("compile cache", "off", "set JAX_COMPILATION_CACHE_DIR to a folder: every start compiles anew")
        return
    path = Path(jax.config.jax_compilation_cache_dir)
    size = sum(file.stat().st_size for file in path.glob("*") if file.is_file())
    for finding in folder("compile cache", path):
        yield finding._replace(text=f"{finding.text}, {size_of(size)} in it (deleting it is safe)")


def folder(subject: str, path: Path) -> Iterator[Finding]:
    """Whether files can be written in a folder, or it can be made, and how much space is free there."""
    there = next(one for one in (path.absolute(), *path.absolute().parents) if one.exists())
    text = f"{path}" + ("" if there == path.absolute() else " (not made yet)")
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"diffusion_jax")
    except OSError as error:
        yield Finding(
            subject, f"{text}, not writable: {error.strerror}", f"make {there} writable, or name another folder"
        )
        return
    free = shutil.disk_usage(there).free
    advice = f"free at least {size_of(MIN_FREE)}" if free < MIN_FREE else ""
    yield Finding(subject, f"{text}, {size_of(free)} free", advice)


def datasets(path: Path) -> Iterator[Finding]:
    """The data sets that are built, with their splits and counts."""
    infos = sorted(info for info in path.glob("*/**/dataset_info.json") if "incomplete." not in str(info))
    if not infos:
        yield Finding("data sets", "none built; `diffusion-jax data build emoji` makes the first")
    for info in infos:
        name = str(info.parent.relative_to(path))
        try:
            splits = json.loads(info.read_text("utf-8"))["splits"]
            counts = [f"{split['name']} {sum(map(int, split['shardLengths']))}" for split in splits]
        except (KeyError, TypeError, ValueError) as error:
            yield Finding("data set", f"{name}: unreadable ({error})", f"delete {info.parent} and build it again")
            continue
        yield Finding("data set", f"{name}: {', '.join(counts)}")


def smoke(seconds: float) -> Iterator[Finding]:
    """Trains a convolution on all devices for a moment and measures the peak of a matrix product."""
    size, dtype, flops = matmul_peak(seconds / 3)
    fault = "" if flops > 0 else "the product came out wrong: the accelerator or its driver is broken"
    yield Finding("matmul peak", f"{flops / 1e9:,.0f} GFLOP/s ({dtype}, {size} x {size})", fault)
    steps, elapsed, losses = train_a_convolution(seconds * 2 / 3)
    fine = all(map(math.isfinite, losses)) and losses[-1] < losses[0]
    advice = "" if fine else "training does not work here: try JAX_PLATFORMS=cpu, then another version of JAX"
    yield Finding("smoke step", f"{steps / elapsed:.1f} steps/s, loss {losses[0]:.3f} -> {losses[-1]:.3f}", advice)


def matmul_peak(seconds: float) -> tuple[int, str, float]:
    """(size, dtype, FLOP/s) of the fastest of repeated square matrix products on one device; 0 when one is wrong."""
    import jax
    import jax.numpy as jnp

    size, dtype = (1024, "float32") if jax.default_backend() == "cpu" else (8192, "bfloat16")
    ones = jnp.ones((size, size), dtype)
    product = jax.jit(jnp.matmul)
    right = bool((product(ones, ones) == size).all())  # exact in both types; this compiles too
    best, end = math.inf, time.perf_counter() + seconds
    while best == math.inf or time.perf_counter() < end:
        start = time.perf_counter()
        product(ones, ones).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return size, dtype, right * 2 * size**3 / best


def train_a_convolution(seconds: float) -> tuple[int, float, list[float]]:
    """(steps, seconds, losses) of gradient descent on one convolution, its batch spread over all devices."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    mesh = Mesh(jax.devices(), ("data",))
    noise = jax.random.normal(jax.random.key(0), (4 * len(mesh.devices), 16, 16, 8))
    batch = jax.device_put(noise, NamedSharding(mesh, PartitionSpec("data")))
    weights = jax.device_put(
        0.1 * jax.random.normal(jax.random.key(1), (3, 3, 8, 8)), NamedSharding(mesh, PartitionSpec())
    )

    def loss(weights, batch):
        out = jax.lax.conv_general_dilated(batch, weights, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jnp.mean((out - batch) ** 2)  # the identity is to be learned

    @jax.jit
    def step(weights, batch):
        value, gradient = jax.value_and_grad(loss)(weights, batch)
        return weights - 0.5 * gradient, value

    step(weights, batch)[1].block_until_ready()
    losses, start = [], time.perf_counter()
    while len(losses) < 5 or time.perf_counter() - start < seconds:
        weights, value = step(weights, batch)
        losses.append(float(value))
    return len(losses), time.perf_counter() - start, losses


def size_of(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**28 else f"{count / 2**20:.1f} MiB"
