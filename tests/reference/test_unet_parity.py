"""The UNet beside the same network out of diffusers' parts: outputs and gradients, with the same random weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax.traverse_util import flatten_dict

from benchmarks.torch_unet import UNet as Reference
from benchmarks.torch_unet import state_dict_of
from diffusion_jax.models.unet import UNet
from diffusion_jax.types import Cond

pytestmark = pytest.mark.reference

SHAPES = {
    "adm": dict(channels=32, multipliers=(1, 2), blocks=2, self_attention=(8,), cross_attention=(16, 8), head_dim=16),
    "efficient": dict(
        channels=24, multipliers=(1, 3, 2), blocks=1, resample="convolution", self_attention=(4, 2),
        cross_attention=(2,), patch=2,
    ),
}  # fmt: skip


def named(tree):
    return {name: np.asarray(leaf) for name, leaf in flatten_dict(tree, sep="/").items()}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_same_network_in_torch(shape):
    numbers = np.random.default_rng(0)
    x = numbers.standard_normal((3, 16, 16, 3)).astype(np.float32)
    log_snr = np.array([-9.0, 0.3, 12.0], np.float32)
    text = numbers.standard_normal((3, 5, 20)).astype(np.float32)
    seen = np.arange(5) < np.array([[5], [2], [1]])
    weight = numbers.standard_normal(x.shape).astype(np.float32)

    ours = UNet(**shape)
    arguments = (jnp.asarray(x), jnp.asarray(log_snr), Cond(jnp.asarray(text), jnp.asarray(seen)))
    shapes = jax.eval_shape(ours.init, jax.random.key(0), *arguments)["params"]
    params = jax.tree.map(
        lambda leaf: jnp.asarray(
            numbers.standard_normal(leaf.shape) / np.sqrt(max(np.prod(leaf.shape[:-1]), 4)), jnp.float32
        ),
        shapes,
    )

    def total(params):
        out = ours.apply({"params": params}, *arguments)
        return jnp.sum(out * weight), out

    (_, out), gradients = jax.jit(jax.value_and_grad(total, has_aux=True))(params)

    theirs = Reference(shape, resolution=16, text_dim=20)
    theirs.load_state_dict(state_dict_of(named(params)))
    reference = theirs(*(torch.tensor(a) for a in (x.transpose(0, 3, 1, 2), log_snr, text, seen)))
    (reference * torch.tensor(weight.transpose(0, 3, 1, 2))).sum().backward()

    expected = reference.detach().numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(out, expected, atol=1e-5 * np.abs(expected).max())
    gradients = state_dict_of(named(gradients))
    least = 1e-2 * max(float(gradient.abs().max()) for gradient in gradients.values())
    for name, parameter in theirs.named_parameters():
        largest = max(float(parameter.grad.abs().max()), least)  # of a key's bias nothing is left but rounding
        np.testing.assert_allclose(gradients[name], parameter.grad, atol=1e-4 * largest, err_msg=name)
