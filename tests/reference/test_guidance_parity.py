"""Guidance beside diffusers' guiders, which combine whatever the network predicts: here D, v, eps or a velocity."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import guiders
from diffusers.guiders.guider_utils import rescale_noise_cfg

from diffusion_jax.diffusion import guidance
from diffusion_jax.diffusion import parameterization as p
from diffusion_jax.diffusion import schedules as s
from diffusion_jax.types import Cond

pytestmark = pytest.mark.reference

SIGMA, SCALE = 1.3, 4.0
X = np.random.default_rng(0).normal(size=(3, 4, 4, 2)) * SIGMA


def denoise(x, sigma, cond):
    return jnp.tanh(x * cond.text_emb[:, :1, :1, None] + 1 / (1 + sigma))


def cond_of(values):
    values = jnp.asarray(values)
    return Cond(values[:, None, None], jnp.ones((values.size, 1), bool))


NULL = lambda: cond_of([-1.5])  # noqa: E731


class Row(NamedTuple):
    """Ours, theirs on (with text, without), and what the network predicts, in which theirs works."""

    ours: Callable
    theirs: Callable
    predicts: Callable = p.x0_prediction
    alpha_sigma: Callable = s.variance_preserving


def guided_by(guider):
    return lambda with_text, without: guider.forward(with_text, without).pred


def rescaled(prediction, alpha_sigma=s.variance_preserving):
    def theirs(with_text, without):
        return rescale_noise_cfg(without + SCALE * (with_text - without), with_text, guidance_rescale=0.7)

    ours = lambda: guidance.rescaled(denoise, NULL(), SCALE, 0.7, prediction, alpha_sigma)  # noqa: E731
    return Row(ours, theirs, prediction, alpha_sigma)


def projected(eta, longest):
    theirs = guiders.AdaptiveProjectedGuidance(
        SCALE - 1, adaptive_projected_guidance_rescale=longest, eta=eta, use_original_formulation=True
    )
    return Row(lambda: guidance.apg(denoise, NULL(), SCALE, eta, longest), guided_by(theirs))


def zero_star(step, sigma_zero):
    theirs = guiders.ClassifierFreeZeroStarGuidance(SCALE, zero_init_steps=1)
    theirs.set_state(step, 10, torch.tensor(0))
    ours = lambda: guidance.cfg_zero_star(denoise, NULL(), SCALE, sigma_zero)  # noqa: E731
    return Row(ours, guided_by(theirs), p.flow_prediction, s.straight_line)


def auto():
    weaker = lambda *at: guidance.without_text(denoise, NULL())(*at)  # noqa: E731
    theirs = guiders.AutoGuidance(SCALE, auto_guidance_layers=[0], dropout=1.0)
    return Row(lambda: guidance.autoguidance(denoise, weaker, SCALE), guided_by(theirs), p.v_prediction)


ROWS = {
    "cfg": Row(
        lambda: guidance.cfg(denoise, NULL(), SCALE),
        guided_by(guiders.ClassifierFreeGuidance(SCALE)),
        p.eps_prediction,
    ),
    "autoguidance": auto(),
    "apg": projected(0.0, 2.5),
    "apg_partly": projected(0.4, 1.0),
    "cfg_zero_star": zero_star(5, np.inf),
    "cfg_zero_star_first": zero_star(0, 1.0),
    "rescaled_v": rescaled(p.v_prediction),
    "rescaled_eps": rescaled(p.eps_prediction),
    "rescaled_x_0": rescaled(p.x0_prediction),
    "rescaled_flow": rescaled(p.flow_prediction, s.straight_line),
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_the_same_guidance(row):
    with jax.enable_x64(True):
        x, sigma, cond = jnp.asarray(X), jnp.asarray(SIGMA), cond_of([0.4, 1.0, -0.6])
        alpha_t, sigma_t = row.alpha_sigma(-2 * jnp.log(sigma))
        a, b = row.predicts(alpha_t, sigma_t)
        c_skip, c_out = p.skip_and_out(alpha_t, sigma_t, row.predicts)
        both = [denoise(x, sigma, cond), guidance.without_text(denoise, NULL())(x, sigma, cond)]
        given = [torch.tensor(np.asarray(a * x_0 + b * (x - x_0) / sigma)) for x_0 in both]
        expected = c_skip * alpha_t * x + c_out * jnp.asarray(row.theirs(*given).numpy())
        found = row.ours()(x, sigma, cond)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.abs(found - both[0]).max() > 0.1
