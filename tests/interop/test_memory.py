"""The host's memory that reading a text encoder takes, by the account of the Linux kernel (VmHWM, which it resets)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np

from diffusion_jax.data import tokenizers
from diffusion_jax.interop.huggingface import TextEncoder, save_text_encoder
from diffusion_jax.models.t5 import T5Encoder

SMALL = {"vocab": 384, "dim": 16, "d_kv": 8, "d_ff": 32, "heads": 8, "layers": 1}
LARGE = {"vocab": 32_000, "dim": 512, "d_kv": 64, "d_ff": 1536, "heads": 8, "layers": 6}

MEASURE = """
import gc, json, re, sys
from pathlib import Path
import jax, jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from diffusion_jax.interop.huggingface import load_text_encoder

def memory(name):
    return 1024 * int(re.search(name + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

small, large = sys.argv[1:]
mesh = Mesh(np.array(jax.devices()), ("all",))
rows = [(jnp.float32, None), (jnp.bfloat16, None), (jnp.float32, NamedSharding(mesh, PartitionSpec("all")))]
for dtype, sharding in rows:
    load_text_encoder(small, dtype, sharding=sharding)  # what is imported and traced is no part of the reading
    gc.collect()
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    params = jax.block_until_ready(load_text_encoder(large, dtype, sharding=sharding).params)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    print(json.dumps([size, memory("VmHWM") - before]))
    del params
"""


def save(folder, sizes):
    module = T5Encoder(**sizes)
    one = np.zeros((1, 1), np.int32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), one, one == 0)["params"]
    params = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), shapes)
    save_text_encoder(folder, TextEncoder(module, params, tokenizers.byt5()))
    return str(folder)


def test_reading_takes_no_more_memory_than_the_model_and_a_fifth(tmp_path):
    """Its embedding is 44% of it, and the file's pages count while they are mapped: neither is there twice."""
    folders = save(tmp_path / "small", SMALL), save(tmp_path / "large", LARGE)
    told = {
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "MALLOC_MMAP_THRESHOLD_": "1000000",  # what is freed goes back at once, and is not there for the next row
    }
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *folders], env=os.environ | told, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [round(size / 1e6) for size, _ in rows] == [147, 74, 147]
    for size, taken in rows:
        print(f"{size / 1e6:.0f} MB of parameters: a peak of {taken / 1e6:.0f} MB more than before")
        assert 0.9 * size <= taken <= 1.2 * size  # less: it was not measured
