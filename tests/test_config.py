"""An entry of a config becomes a function call, and every mistake in it is one line with a way out."""

import types

import pytest
from ml_collections import ConfigDict

from diffusion_jax import config, models
from diffusion_jax.data import sources
from diffusion_jax.diffusion import grids, parameterization, samplers, schedules, weighting


def test_a_bare_name_is_of_the_home_module():
    assert config.resolve("cosine", schedules) is schedules.cosine


def test_a_full_name_is_anybodys():
    assert config.resolve("diffusion_jax.diffusion.weighting:min_snr", schedules) is weighting.min_snr


@pytest.mark.parametrize(
    ("name", "home", "line"),
    [
        ("cosin", schedules, r"diffusion_jax.diffusion.schedules has no 'cosin': did you mean cosine"),
        ("dpmp_2m", samplers, r"samplers has no 'dpmp_2m': did you mean dpmpp_2m"),
        ("qqqqq", schedules, r"has no 'qqqqq': it has .*cosine.*"),
        ("", schedules, "has no ''"),
        ("unet", models, "did you mean UNet"),
        ("emoj", sources, "did you mean emoji"),
        ("jnp", schedules, "has no 'jnp'"),  # what a module imports is not its own
        ("NamedTuple", schedules, "has no 'NamedTuple'"),
        ("__import__", schedules, "has no '__import__'"),
        ("no.such.module:function", schedules, r"no.such.module:function: cannot import no.such.module"),
        ("json:no_such", schedules, "json has no 'no_such'"),
        ("json:_default_decoder", schedules, "json has no '_default_decoder'"),
        (":cosin", schedules, "did you mean cosine"),
    ],
)
def test_an_unknown_name(name, home, line):
    with pytest.raises(ValueError, match=line) as raised:
        config.resolve(name, home)
    assert "\n" not in str(raised.value)


def test_public_names_are_those_a_module_defines_or_exports():
    assert {"cosine", "linear_beta"} <= set(config.public_names(schedules))
    assert not {"jnp", "Callable", "NamedTuple"} & set(config.public_names(schedules))
    assert config.public_names(models) == ["T5Encoder", "UNet"]


def test_bind_binds():
    bound = config.bind(ConfigDict(dict(name="karras", rho=5.0)), grids, given=3)
    assert (bound.func, bound.keywords) == (grids.karras, {"rho": 5.0})


def test_lists_become_tuples_since_modules_are_hashed():
    home = types.ModuleType("home")
    home.take = lambda sizes: sizes
    home.take.__module__ = "home"
    assert config.bind({"name": "take", "sizes": [1, 2]}, home)() == (1, 2)


@pytest.mark.parametrize(
    ("entry", "home", "given", "line"),
    [
        (dict(log_snr_min=1.0), schedules, 0, "a config entry for diffusion_jax.diffusion.schedules needs a name"),
        (dict(name=3), schedules, 0, "needs a name"),
        (dict(name="cosine", log_snr_mn=1.0), schedules, 0, "takes no argument 'log_snr_mn': did you mean log_snr_min"),
        (dict(name="karras", qqq=1.0), grids, 3, "karras takes no argument 'qqq': it takes n, sigma_min"),
        (dict(name="shifted", shift=1.0), schedules, 0, "shifted does not fit here .*missing .*'schedule'"),
        (dict(name="target"), parameterization, 2, "target does not fit here"),
        (
            dict(name="diffusion_jax.diffusion.samplers:steps_for"),
            samplers,
            5,
            "steps_for does not fit here .*too many positional",
        ),
        (dict(name="karras", n=3), grids, 3, "karras does not fit here .*multiple values for argument 'n'"),
        (dict(name="UNet", channels=8), models, 0, "UNet does not fit here .*'multipliers'"),
    ],
)
def test_an_entry_that_does_not_fit(entry, home, given, line):
    with pytest.raises(ValueError, match=line) as raised:
        config.bind(ConfigDict(entry), home, given)
    assert "\n" not in str(raised.value)


def test_arguments_that_come_by_name_if_a_function_has_them():
    assert config.bind(dict(name="uniform_t"), grids, 3, named=("schedule",)).func is grids.uniform_t
    assert config.bind(dict(name="karras"), grids, 3, named=("schedule",)).func is grids.karras
    with pytest.raises(ValueError, match="uniform_t does not fit here"):
        config.bind(dict(name="uniform_t"), grids, 3)
    assert config.accepted(grids.uniform_t, schedule=1, other=2) == {"schedule": 1}


def test_differences_are_a_line_each():
    old = dict(a=1, b=dict(c=2.0, d=[1, 2]), e="x")
    assert config.differences(old, old) == []
    new = dict(a=1, b=dict(c=2.5, d=[1, 2], f=None), g=0)
    assert config.differences(old, new) == ["b.c: 2.0 -> 2.5", "e: x -> None", "g: None -> 0"]


def test_an_int_is_not_a_float_of_the_same_value():
    assert config.differences(dict(a=1), dict(a=1.0)) == ["a: 1 -> 1.0"]


def test_foreign_names():
    nested = dict(
        schedule=dict(name="cosine"), sampling=dict(sampler=dict(name="mine.x:f")), data=dict(name="os:system")
    )
    assert config.foreign_names(nested) == ["mine.x:f", "os:system"]
