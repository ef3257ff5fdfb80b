"""One process of several that write and read checkpoints together: python -m tests.training.checkpoint_worker.

Its words are RUN, LAYOUT and then "restore", or steps to save, with metrics (3:0.5); its last line is one of JSON.
"""

import json
import os
import resource
import sys
import time

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from diffusion_jax.training import checkpoint, state

LAYOUTS = {  # the devices in a grid, and how a kernel is cut along its axes
    "rows": ((4,), ("a",)),
    "tiles": ((2, 2), ("b", "a")),
    "columns": ((2, 2), (None, ("a", "b"))),
    "whole": ((-1,), ()),
}


def a_state(step, size=64):
    """Of numpy arrays: what any process finds at this step."""
    numbers = np.random.default_rng(step)
    params = {"kernel": numbers.normal(size=(size, 8)).astype("f"), "bias": numbers.normal(size=3).astype("f")}
    averaged = {name: value + 1 for name, value in params.items()}
    return state.TrainState(np.int32(step), params, averaged, (params | {"count": np.int32(step)}, ()))


def shardings(like, layout):
    shape, cut = LAYOUTS[layout]
    mesh = Mesh(np.array(jax.devices()).reshape(shape), ("a", "b")[: len(shape)])
    return jax.tree.map(lambda leaf: NamedSharding(mesh, PartitionSpec(*(cut if leaf.ndim == 2 else ()))), like)


def placed(values, layout):
    return jax.tree.map(
        lambda value, sharding: jax.make_array_from_callback(value.shape, sharding, lambda index: value[index]),
        values,
        shardings(values, layout),
    )


def equal(found, expected):
    """Whether this process's parts are those of the expected arrays, bit for bit."""
    same = jax.tree.map(
        lambda array, value: all(
            np.asarray(shard.data).tobytes() == np.ascontiguousarray(value[shard.index]).tobytes()
            for shard in array.addressable_shards
        ),
        found,
        expected,
    )
    return all(jax.tree.leaves(same))


def main(run, layout, *words, size=64, patience=600):
    said = []
    checkpoints = checkpoint.open_checkpoints(run, keep=2, keep_best=1, patience=patience)
    if words == ("restore",):
        like = a_state(0, size)
        wanted = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            like,
            shardings(like, layout),
        )
        found, data = checkpoint.restore(checkpoints, wanted, said.append)
        step = int(found.step)
        report = {"step": step, "data": data, "equal": equal(found, a_state(step, size)), "said": said}
    else:
        for word in words:
            step, _, metric = word.partition(":")
            now = placed(a_state(int(step), size), layout)
            checkpoint.save(checkpoints, now, {"next": int(step)}, {}, float(metric) if metric else None)
        checkpoint.finish(checkpoints)
        report = {"saved": len(words)}
    checkpoint.close(checkpoints)
    print(json.dumps(report | {"devices": jax.device_count(), "processes": jax.process_count()}), flush=True)


def stop_before_the_end_of_a_save(path):
    print("all is written but the digests", flush=True)
    time.sleep(1000)


if __name__ == "__main__":
    if "JAX_COORDINATOR_ADDRESS" in os.environ:
        jax.distributed.initialize(
            os.environ["JAX_COORDINATOR_ADDRESS"],
            int(os.environ["JAX_NUM_PROCESSES"]),
            int(os.environ["JAX_PROCESS_ID"]),
        )
    match os.environ.get("FAULT"):
        case "stop":
            checkpoint.seal = stop_before_the_end_of_a_save
        case "full disk":
            if jax.process_index() in map(int, os.environ["WHERE"].split()):
                resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    try:
        main(*sys.argv[1:], **json.loads(os.environ.get("SETTINGS", "{}")))
    except (OSError, ValueError) as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), flush=True)
        sys.exit(1)
