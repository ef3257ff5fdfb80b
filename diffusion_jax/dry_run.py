"""What an experiment would cost, without running it."""

import json

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from diffusion_jax import build, placement
from diffusion_jax.training import parallel
from diffusion_jax.training.layout import by_axes


def report(config: ConfigDict) -> None:
    """Print the final config, the parameters of each module, and the memory of the compiled step on each device."""
    print(json.dumps(json.loads(config.to_json_best_effort()), indent=2))
    mesh = placement.mesh_of(config)
    experiment = build.build(config)
    where = placement.placed(experiment, mesh)
    state = where.shapes
    for part, params in state.params.items():
        for module, leaves in params.items():
            print(f"{count(leaves):>14,}  {part}.{module}")
        print(f"{count(params):>14,}  {part}")
    print(f"{count(state.params):>14,}  parameters in all")
    learning = [params for part, params in state.params.items() if part not in experiment.fixed]
    print(f"{count(learning):>14,}  of them trained")

    print("\nThe state, parameters, their average and moments, on each device:")
    for way, (leaves, size) in by_axes(state, where.shardings).items():
        cut = "on every device" if way == "whole" else f"cut over {way}"
        print(f"{size / 2**20:>12,.1f} MiB  {leaves} arrays {cut}")

    key = jax.eval_shape(lambda: jax.random.key(0))
    compiled = placement.compiled_step(config, experiment, where).lower(state, abstract_batch(config, experiment), key)
    each = config.batch_size // parallel.rows_in(mesh)
    sizes = " x ".join(f"{name}={size}" for name, size in mesh.shape.items())
    kind = jax.devices()[0].device_kind
    print(f"\nOne step on {mesh.size} x {kind} ({sizes}), each with {each} pictures, needs on each:")
    for name, size in memory(compiled.compile()).items():
        print(f"{size / 2**20:>12,.1f} MiB  {name}")


def abstract_batch(config: ConfigDict, experiment: build.Experiment) -> dict:
    """The shapes of one global batch."""
    rows = experiment.text.tokenize([""])
    tokens, mask = (jax.ShapeDtypeStruct((config.batch_size, row.shape[1]), row.dtype) for row in rows)
    image = jax.ShapeDtypeStruct((config.batch_size, *experiment.picture_shape), jnp.uint8)
    return {"image": image, "tokens": tokens, "mask": mask}


def count(tree) -> int:
    """The number of parameters in a tree of arrays or shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def memory(compiled) -> dict[str, int]:
    """What the compiler says a program needs on each device, in bytes."""
    stats = compiled.memory_analysis()
    arguments = stats.argument_size_in_bytes
    temporary = stats.temp_size_in_bytes
    fresh = stats.output_size_in_bytes - stats.alias_size_in_bytes
    return {
        "state and batch": arguments,
        "activations and other temporaries": temporary,
        "outputs that reuse no input": fresh,
        "in all": arguments + temporary + fresh,
    }
