"""What a config's `sampling` entry may say, and every way in which it does not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from diffusion_jax import build, sampling
from diffusion_jax.diffusion import denoiser, guidance

CFG = dict(name="cfg")


def changed(config, **changes):
    return ConfigDict(config.sampling.to_dict() | changes)


def test_numbers_of_a_sampler(config):
    grid, _ = sampling.sampler(build.build(config), config.sampling)
    sigmas = np.asarray(grid())
    assert (len(sigmas), *sigmas[[0, -1]]) == (4, pytest.approx(80), pytest.approx(0.02))
    other = changed(config, sampler=dict(name="heun"), nfe=5, grid=dict(name="uniform_t"))
    assert len(sampling.sampler(build.build(config), other)[0]()) == 3


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (dict(nfe=0), "nfe is 0"),
        (dict(sampler=dict(name="ddin")), "config.sampler: .*did you mean ddim"),
        (dict(grid=dict(name="karas")), "config.grid: .*did you mean karras"),
        (dict(sigma_min=0.0), "must be positive and below"),
        (dict(sigma_max=0.02), "must be positive and below"),
        (dict(sigma_max=float("inf")), "must be positive and below"),
        (dict(sigma_min=float("nan")), "must be positive and below"),
        (dict(guidance=dict(name="cgf")), "config.sampling.guidance: .*did you mean cfg"),
        (dict(guidance=dict(name="apg", etta=1.0)), "config.sampling.guidance: apg takes no argument 'etta'"),
        (dict(guidance=dict(name="autoguidance")), "autoguidance does not fit here .*'weaker'"),
        (dict(guidance=dict(name="within", sigma_lo=0.1)), "within does not fit here .*'sigma_hi'"),
        (dict(guidance=dict(name="dynamic_threshold", guided=dict(name="cg"))), "guidance: .*did you mean cfg"),
        (dict(guidance=dict(name="composed", others=("red",), weights=())), "1 other conditions but 0 weights"),
        (
            dict(guidance=dict(name="autoguidance", weaker=dict(name="weakened", skipped=("middle_9",)))),
            "config.sampling.guidance: no stage to skip, .*: middle_9",
        ),
    ],
)
def test_a_way_of_sampling_that_does_not_exist(config, change, line):
    with pytest.raises(ValueError, match=line) as raised:
        sampling.sampler(build.build(config), changed(config, **change))
    assert "\n" not in str(raised.value)


@pytest.fixture
def experiment(config):
    return build.build(config)


@pytest.fixture
def params(experiment, stirred):
    return stirred(jax.jit(experiment.init)(jax.random.key(0)))


@pytest.fixture
def encode(experiment, params):
    return lambda captions: experiment.encode(params, *map(jnp.asarray, experiment.text.tokenize(captions)))


@pytest.fixture
def denoise(experiment, params, encode):
    """x at sigma = 1 with the text "red" -> D, as a config's guidance entry would have it."""

    def by(entry, scale=3.0):
        x = jax.random.normal(jax.random.key(1), (2, *experiment.picture_shape))
        sigmas = jnp.array([2.0, 1.0, 0.5])
        cond, null = encode(["red"] * 2), encode([""])
        guided = sampling._guided(ConfigDict(entry), experiment, params, null, sigmas, scale)
        return np.asarray(jax.jit(guided)(x, sigmas[1], cond))

    return by


def test_entries_of_guidance_nest_as_the_functions_do(denoise):
    guided, plain = denoise(CFG), denoise(CFG, scale=1.0)
    assert abs(guided - plain).max() > 1e-3
    same = {
        "scale of its own": dict(name="cfg", scale=3.0),
        "one scale at all levels": dict(name="cfg", scale=dict(name="linear_ramp", first=3.0, last=3.0)),
        "apg, of everything": dict(name="apg", eta=1.0),
        "rescaled, not": dict(name="rescaled", share=0.0),
        "within all": dict(name="within", sigma_lo=0.0, sigma_hi=9.0),
        "away from no text": dict(name="autoguidance", weaker=dict(name="without_text")),
        "text and nothing": dict(name="composed", others=("blue",), weights=(0.0,)),
        "scale 2 of CFG++ at its level": dict(name="cfg", scale=dict(name="cfg_plus_plus", strength=1.5)),
    }
    for name, entry in same.items():
        np.testing.assert_allclose(denoise(entry), guided, atol=2e-5, err_msg=name)
    bounded = denoise(dict(name="dynamic_threshold", percentile=90.0))
    assert abs(bounded).max() <= 1 < abs(guided).max()
    inner = dict(name="within", sigma_lo=0.0, sigma_hi=0.5)
    np.testing.assert_allclose(denoise(dict(name="static_threshold", guided=inner)), plain.clip(-1, 1), atol=2e-5)
    different = [
        dict(name="apg"),
        dict(name="rescaled"),
        dict(name="cfg_zero_star"),
        dict(name="composed", others=("blue",), weights=(1.0,)),
        dict(name="autoguidance", weaker=dict(name="weakened", skipped=("middle_0",))),
        dict(name="autoguidance", weaker=dict(name="weakened", skipped=("middle_0",)), denoise=CFG),
    ]
    answers = [guided, plain, *map(denoise, different)]
    for i, one in enumerate(answers):
        assert all(abs(one - other).max() > 1e-4 for other in answers[:i]), i


def test_a_weaker_network_guides(experiment, params, encode, denoise):
    """W + scale (D - W), where W leaves out a stage of the same network."""
    entry = dict(name="autoguidance", weaker=dict(name="weakened", skipped=("middle_0",)))
    cond = encode(["red"] * 2)
    x, sigma = jax.random.normal(jax.random.key(1), (2, *experiment.picture_shape)), jnp.ones(())
    better, weaker = (
        denoiser.denoiser(experiment.network(params, **changes), experiment.schedule, experiment.parameterization)
        for changes in ({}, dict(skipped=("middle_0",)))
    )
    exact = jax.jit(guidance.autoguidance(better, weaker, 3.0))(x, sigma, cond)
    np.testing.assert_allclose(denoise(entry), exact, atol=2e-5)
