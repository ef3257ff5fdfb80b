"""The settings that the other tests rely on are in force: else they would pass for the wrong reason."""

import warnings

import jax
import jax.numpy as jnp
import jaxtyping
import pytest

from diffusion_jax.diffusion import schedules


def test_there_are_eight_devices():
    assert jax.device_count() == 8


def test_ranks_are_not_promoted():
    with pytest.raises(ValueError, match="rank_promotion"):
        jnp.ones((2, 2)) + jnp.ones(2)


def test_shapes_and_types_are_checked():
    with pytest.raises(jaxtyping.TypeCheckError):
        schedules.cosine(log_snr_min="low")


def test_warnings_are_errors():
    with pytest.raises(UserWarning, match="on purpose"):
        warnings.warn("on purpose", stacklevel=1)


def test_compiled_programs_are_kept_in_the_folder_of_the_tests(pytestconfig):
    kept = pytestconfig.rootpath / ".pytest_cache" / "jax"
    assert jax.config.jax_compilation_cache_dir == str(kept)
    jax.jit(lambda x: x + 1)(jnp.ones(3)).block_until_ready()
    assert any(kept.iterdir())
