"""How fast is it here? One compiled program, timed by itself, against the machine's own matrix product."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from diffusion_jax import build, placement, sampling
from diffusion_jax.agreement import versions
from diffusion_jax.dry_run import abstract_batch, memory
from diffusion_jax.files import write_json
from diffusion_jax.training import parallel

MATMUL_SIZE = {"cpu": 2048, "gpu": 8192, "tpu": 8192}


def report(what: str, config: ConfigDict, repeats: int, out: str | None) -> dict:
    """Print the figures of `what` ("train" or "sample") as JSON, and write them to `out`; returns them."""
    figures = PROGRAMS[what](config, repeats)
    peak = matmul_peak(str(config.denoiser.dtype))
    figures |= {"matmul_flop_per_second": peak, "utilization": figures["flop_per_second"] / peak}
    figures = {"what": what, **figures, "versions": versions()}
    print(json.dumps(figures, indent=2))
    if out is not None:
        write_json(Path(out), figures)
    return figures


def bench_train(config: ConfigDict, repeats: int) -> dict:
    """One training step on a batch that lies on the devices: no data pipeline in it."""
    mesh = placement.mesh_of(config)
    experiment = build.build(config)
    where = placement.placed(experiment, mesh)
    key = parallel.replicate(jax.random.key(config.seed), mesh)
    state = placement.first_state(experiment, where, config.seed)
    batch = {name: np.ones(a.shape, a.dtype) for name, a in abstract_batch(config, experiment).items()}
    batch = parallel.split_batch(batch, mesh, config.batch_size)
    take_step = placement.compiled_step(config, experiment, where)
    compiled, seconds = timed(take_step.lower(state, batch, key).compile)

    holder = [state]

    def once():
        holder[0], metrics = take_step(holder[0], batch, key)  # what was compiled of a mapped one takes other arrays
        return metrics

    flop = float(compiled.cost_analysis()["flops"])
    return figures_of(once, repeats, compiled, config.batch_size, flop) | {"compile_seconds": seconds}


def bench_sample(config: ConfigDict, repeats: int) -> dict:
    """One call of the config's sampler for batch_size pictures, with random parameters."""
    experiment = build.build(config)
    grid, draw = sampling.sampler(experiment, config.sampling)
    params = jax.jit(experiment.init)(jax.random.key(config.seed))
    count = config.batch_size
    words, null = experiment.text.tokenize(["a red heart"] * count), experiment.text.tokenize([""])
    keys = jax.random.split(jax.random.key(0), count)
    arguments = (params, words, null, keys, grid(), jnp.float32(config.sampling.cfg_scale))
    compiled, seconds = timed(jax.jit(draw).lower(*arguments).compile)
    flop = config.sampling.nfe * network_flop(experiment, params, 2 * count)
    figures = figures_of(lambda: compiled(*arguments), repeats, compiled, count, flop)
    return figures | {"compile_seconds": seconds, "network_calls": config.sampling.nfe}


def network_flop(experiment: build.Experiment, params, pictures: int) -> float:
    """The FLOP of one call of the network: counted alone, because XLA counts the body of a sampler's loop only once."""
    words = jax.tree.map(lambda row: np.repeat(row, pictures, axis=0), experiment.text.tokenize([""]))
    cond = jax.eval_shape(experiment.encode, params, *words)
    x_t = jax.ShapeDtypeStruct((pictures, *experiment.picture_shape), jnp.float32)
    log_snr = jax.ShapeDtypeStruct((pictures,), jnp.float32)
    call = jax.jit(lambda p, *args: experiment.network(p)(*args)).lower(params, x_t, log_snr, cond)
    return float(call.compile().cost_analysis()["flops"])


PROGRAMS = {"train": bench_train, "sample": bench_sample}


def figures_of(once: Callable, repeats: int, compiled, pictures: int, flop: float) -> dict:
    """Median and spread over the repetitions, after one that does not count. flop: of one repetition."""
    jax.block_until_ready(once())
    seconds = np.array([timed(lambda: jax.block_until_ready(once()))[1] for _ in range(repeats)])
    low, middle, high = np.percentile(seconds, [10, 50, 90])
    return {
        "images_per_second": pictures / middle,
        "images_per_second_10_to_90_percent": [pictures / high, pictures / low],
        "seconds": middle,
        "repeats": repeats,
        "flop": flop,
        "flop_per_second": flop / middle,
        "memory_mib": memory(compiled)["in all"] / 2**20,
    }


def matmul_peak(dtype: str) -> float:
    """FLOP/s of a large square matrix product in `dtype`, the best of ten: what the machine can do at all."""
    size = MATMUL_SIZE.get(jax.default_backend(), 4096)
    a = jnp.ones((size, size), dtype)
    product = jax.jit(jnp.matmul)
    jax.block_until_ready(product(a, a))
    return 2 * size**3 / min(timed(lambda: jax.block_until_ready(product(a, a)))[1] for _ in range(10))


def timed(function: Callable) -> tuple:
    """What a function returns, and the seconds that it took."""
    begun = time.perf_counter()
    result = function()
    return result, time.perf_counter() - begun
