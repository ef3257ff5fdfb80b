"""Is a sweep quicker as one program? Seconds of a run's step, separate and together, and of compiling.

    python -m benchmarks.many_in_one --config=experiments/tiny.py --counts=1,2,4,8

Prints a Markdown table. Separate is one compiled step, taken for each run in turn; together is one step of all, on as
many devices as there are. Both are warm, and take turns (A B A B ...) in blocks of `--steps` steps of every run; the
figures are medians over the blocks. Compiling is tracing and XLA's work without its cache, as a sweep of that many arms
meets it: each arm once, or all in one.
"""

import argparse
import contextlib
import functools
import runpy
import statistics
import time

import jax
import numpy as np
from ml_collections import ConfigDict

from diffusion_jax import alike, build, placement
from diffusion_jax.training import many, parallel, state

HEAD = "| runs | devices | ms a run's step: separate | together | times as fast | s to compile: separate | together |"
NUMBERS = ("optimizer.learning_rate", "ema_decay", "caption_dropout")


def arms(config: ConfigDict, count: int) -> list[ConfigDict]:
    """Configs that differ in numbers, all of one seed."""
    shares = np.linspace(0.5, 1.0, count)
    return [alike.with_numbers(config, {name: float(share * at(config, name)) for name in NUMBERS}) for share in shares]


def at(config: ConfigDict, name: str) -> float:
    return alike.numbers_in(config)[name]


def seconds(function, steps: int) -> float:
    """Of a call, the mean of so many."""
    begun = time.perf_counter()
    for _ in range(steps):
        result = function()
    jax.block_until_ready(result)
    return (time.perf_counter() - begun) / steps


class Separate:
    """Runs one after the other on the first device: the step of one arm is as good as that of any."""

    def __init__(self, configs, batch, first):
        config, experiment = configs[0], build.build(configs[0])
        where = placement.placed(experiment, placement.mesh_of(config, jax.devices()[:1]))
        self.batch = batch
        self.states = [parallel.place(first, where.shardings) for _ in configs]
        self.take_step = placement.make_step(config, experiment, where)
        begun = time.perf_counter()
        jax.block_until_ready(self.take_step(parallel.place(first, where.shardings), batch))
        self.compiling = (time.perf_counter() - begun) * len(configs)

    def step(self):
        self.states = [self.take_step(now, self.batch)[0] for now in self.states]
        return self.states


class Together:
    """The same runs in one program, on all devices."""

    def __init__(self, configs, batch, first):
        mesh = many.mesh_of(len(configs))
        numbers = alike.stacked_numbers(configs, NUMBERS)
        self.states, self.devices = many.stacked([first] * len(configs), mesh), mesh.size
        self.numbers = many.stacked(numbers, mesh)
        self.keys = many.stacked([placement.step_key(0)] * len(configs), mesh)
        self.which = many.stacked([np.int32(0)] * len(configs), mesh)
        self.batch = {name: batch[name] for name in placement.COLUMNS}
        self.mesh, self.take_step = mesh, many.make_step(functools.partial(alike.update, configs[0]), mesh)
        begun = time.perf_counter()
        jax.block_until_ready(self.step())
        self.compiling = time.perf_counter() - begun

    def step(self):
        batches = many.batches_on([self.batch], self.mesh)
        self.states, _ = self.take_step(self.numbers, self.states, batches, self.which, self.keys)
        return self.states


def row(config: ConfigDict, count: int, batch: dict, first: state.TrainState, steps: int, blocks: int) -> str:
    configs = arms(config, count)
    ways = [Separate(configs, batch, first), Together(configs, batch, first)]
    times = [[], []]
    for _ in range(blocks):
        for way, told in zip(ways, times, strict=True):
            told.append(seconds(way.step, steps) / count)
    apart, one = map(statistics.median, times)
    compiling = " | ".join(f"{way.compiling:.1f}" for way in ways)
    return f"| {count} | {ways[1].devices} | {1e3 * apart:.1f} | {1e3 * one:.1f} | {apart / one:.2f} | {compiling} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="experiments/tiny.py")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=NUMBER", help="as denoiser.channels=64")
    parser.add_argument("--counts", default="1,2,4,8")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--blocks", type=int, default=5)
    args = parser.parse_args()
    config = runpy.run_path(args.config)["get_config"]()
    for change in args.set:
        name, _, number = change.partition("=")
        config.update_from_flattened_dict({name: type(alike.numbers_in(config).get(name, 1))(float(number))})
    with contextlib.closing(build.batches(config, build.build(config), "data")) as batches:
        batch = next(batches)
    first = jax.device_get(jax.jit(functools.partial(alike.init, config, {}))(np.uint32(config.seed)))
    jax.config.update("jax_enable_compilation_cache", False)
    print(f"{jax.device_count()} x {jax.devices()[0].device_kind}, {args.config} {' '.join(args.set)}\n")
    print(HEAD)
    print("|---|---|---|---|---|---|---|", flush=True)
    for count in map(int, args.counts.split(",")):
        print(row(config, count, batch, first, args.steps, args.blocks), flush=True)


if __name__ == "__main__":
    main()
