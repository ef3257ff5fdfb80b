"""Eight simulated CPU devices, strict ranks, and no access to any hub: set before jax is imported."""

import importlib
import os
import resource
from contextlib import contextmanager
from pathlib import Path

import pytest

# The machine code is not optimized: most of the time of these tests is compilation. What XLA_FLAGS says comes after.
flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 "
os.environ["XLA_FLAGS"] = flags + os.environ.get("XLA_FLAGS", "")
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ["HF_HUB_OFFLINE"] = "1"

# What was compiled once is kept, down to the smallest program: a second run of the tests takes a quarter of the time.
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(__file__).parents[1] / ".pytest_cache" / "jax")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"


@pytest.fixture
def config(monkeypatch):
    """A model of a few thousand parameters."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    tiny = importlib.import_module("experiments.tiny").get_config()
    tiny.batch_size = 8
    tiny.tokenizer.max_length = 12
    tiny.text_encoder.update(dict(dim=8, d_kv=4, d_ff=8, heads=1, layers=1))
    tiny.denoiser.update(dict(channels=8, multipliers=(1,), self_attention=(), cross_attention=(4,), patch=4))
    return tiny


@pytest.fixture
def stirred():
    """Parameters of which none is zero, as after some training: zero kernels would hide what is behind them."""
    import jax

    def stir(params):
        leaves, tree = jax.tree.flatten(params)
        keys = jax.random.split(jax.random.key(9), len(leaves))
        return jax.tree.unflatten(
            tree, [p + 0.3 * jax.random.normal(k, p.shape) for k, p in zip(keys, leaves, strict=True)]
        )

    return stir


@pytest.fixture(scope="session")
def file_size_limit():
    """A context in which no file may grow beyond so many bytes: as good as a full disk, and needs no rights."""

    @contextmanager
    def limit(size):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limit
