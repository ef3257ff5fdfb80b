import jax
import jax.numpy as jnp
import pytest

from diffusion_jax.models.backend import backend, traced_for
from diffusion_jax.models.blocks import conv
from diffusion_jax.models.fusion import computed_once


def primitives(function, *arguments):
    text = str(jax.make_jaxpr(lambda *a: function(*a))(*arguments))
    return {name for name in ("conv_general_dilated", "optimization_barrier") if name in text}


def test_networks_are_traced_for_the_backend_that_is_chosen_around():
    x = jnp.zeros((2, 8, 8, 64))
    module = conv(64, 3, jnp.float32, "conv")
    params = jax.eval_shape(module.init, jax.random.key(0), x)

    def apply(params, x):
        return computed_once(module.apply(params, x))

    assert primitives(apply, params, x) == {"optimization_barrier"}  # Winograd's way
    with traced_for("tpu"):
        assert backend() == "tpu"
        assert primitives(apply, params, x) == {"conv_general_dilated"}
    assert primitives(apply, params, x) == {"optimization_barrier"}


def test_the_choice_ends_with_an_error_too():
    with pytest.raises(RuntimeError), traced_for("gpu"):
        raise RuntimeError
    assert backend() == jax.default_backend()
