"""What an experiment would cost, without running it."""

import json

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from diffusion_jax import build
from diffusion_jax.run import initial_state
from diffusion_jax.training import parallel, step


def report(config: ConfigDict) -> None:
    """Print the final config, the parameters of each module, and the memory of the compiled step on each device."""
    print(json.dumps(json.loads(config.to_json_best_effort()), indent=2))
    mesh = parallel.data_mesh()
    parallel.check_batch_size(config.batch_size, mesh)
    experiment = build.build(config)
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(lambda k: initial_state(experiment, k), key)
    for part, params in state.params.items():
        for module, leaves in params.items():
            print(f"{count(leaves):>14,}  {part}.{module}")
        print(f"{count(params):>14,}  {part}")
    print(f"{count(state.params):>14,}  parameters in all")
    learning = [params for part, params in state.params.items() if part not in experiment.fixed]
    print(f"{count(learning):>14,}  of them trained")

    update = step.make_train_step(experiment.loss, experiment.optimizer, config.ema_decay, experiment.fixed)
    compiled = parallel.data_parallel(update, mesh).lower(state, abstract_batch(config, experiment), key).compile()
    each = config.batch_size // mesh.size
    print(f"\nOne step on {mesh.size} x {jax.devices()[0].device_kind}, each with {each} pictures, needs on each:")
    for name, size in memory(compiled).items():
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
