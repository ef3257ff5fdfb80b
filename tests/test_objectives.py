"""What is drawn of objectives, and the mistakes that are found in them."""

import re
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from diffusion_jax import objectives
from diffusion_jax.objectives.lint import lint, same
from diffusion_jax.objectives.sheet import LEVELS, WIDTH, sheet
from diffusion_jax.objectives.show import PLAIN, config_of

COSINE = PLAIN | dict(schedule=dict(name="cosine"))
ROOT = Path(__file__).parents[1]


def made(title="it", **changes):
    """The sheet of the plain config with other entries; those of `sampling` one by one."""
    sampling = COSINE["sampling"] | changes.pop("sampling", {})
    return sheet(title, ConfigDict(COSINE | changes | {"sampling": sampling}))


MISTAKES = {
    "noise alone is never trained on": (
        dict(schedule=dict(name="scaled_linear")),
        ["at t = 1 the SNR is 0.0048.*color still shows", "calls of the sampler are at noise that is hardly ever"],
    ),
    "nor in large pictures": (
        dict(resolution=512),
        ["at t = 1 the SNR is 4.5e-05, and that of the mean of 262144 pixels 12"],
    ),
    "noisier than sampled": (
        dict(sampling=dict(sigma_max=3.0)),
        ["of the training is on pictures with more noise than"],
    ),
    "cleaner than sampled": (
        dict(sampling=dict(sigma_min=0.5)),
        ["of the training is on pictures with less noise than"],
    ),
    "sampled but not trained": (
        dict(noise_levels=dict(name="log_normal")),
        [r"calls of the sampler are at noise .* log_snr -8.76, .*; training goes from -[45]"],
    ),
    "float32 loses the end": (dict(schedule=dict(name="cosine", log_snr_min=-40.0)), ["in float32, log_snr is off by"]),
    "eps in bfloat16": (
        dict(parameterization=dict(name="eps_prediction"), denoiser=dict(dtype="bfloat16")),
        ["rounding what the network says is an error of 0.62 in x_0"],
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_found_and_no_other(name):
    changes, expected = MISTAKES[name]
    lines = list(lint(made(**changes)))
    assert len(lines) == len(expected), lines
    for line, pattern in zip(lines, expected, strict=True):
        assert re.search(pattern, line), line
        assert line.startswith("it: ")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        dict(schedule=dict(name="rectified_flow"), parameterization=dict(name="flow_prediction")),
        dict(denoiser=dict(dtype="bfloat16")),
        dict(parameterization=dict(name="eps_prediction")),
        dict(
            resolution=512,
            schedule=dict(name="shifted", shift=8.0, schedule=dict(name="cosine")),
            sampling=dict(sigma_min=0.08, sigma_max=500.0),
        ),
    ],
)
def test_nothing_is_found_where_nothing_is_wrong(changes):
    assert list(lint(made(**changes))) == []


@pytest.mark.parametrize("path", sorted((ROOT / "experiments").glob("[!_]*.py")), ids=lambda path: path.stem)
def test_the_experiments_of_the_project_have_no_mistakes(path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    assert list(lint(sheet(*config_of(str(path))))) == []


def sigmoid_per_log_snr(schedule, **changes):
    weighting = dict(name="per_log_snr", weighting=dict(name="sigmoid"))
    return made(schedule, schedule=dict(name=schedule), weighting=weighting, **changes)


def test_two_ways_to_write_one_objective_are_found():
    """Uniform log_snr makes every schedule of one range the same; and the loss on v has two names."""
    assert list(same([sigmoid_per_log_snr("cosine"), sigmoid_per_log_snr("rectified_flow")])) == [
        "cosine and rectified_flow are one objective"
    ]
    by_name = made("clipped", weighting=dict(name="clipped_v", gamma=1e9))
    assert list(same([made(), by_name])) == ["it and clipped are one objective"]
    edm = dict(name="edm_prediction", sigma_data=1.0)
    assert list(same([made(), made("edm", parameterization=edm)])) == ["it and edm are one objective"]


@pytest.mark.parametrize(
    "changes",
    [
        dict(weighting=dict(name="clipped_v", gamma=5.0)),
        dict(weighting=dict(name="edm", sigma_data=0.9)),
        dict(parameterization=dict(name="x0_prediction")),
        dict(schedule=dict(name="rectified_flow")),
        dict(noise_levels=dict(name="logit_normal")),
        dict(schedule=dict(name="cosine", log_snr_min=-3.0)),
    ],
)
def test_two_objectives_are_not_one(changes):
    assert list(same([made(), made("other", **changes)])) == []


def test_the_numbers_of_a_sheet():
    numbers = made()
    assert numbers.density.sum() * WIDTH == pytest.approx(1)
    slope = 1 / (2 * np.pi * np.cosh(LEVELS / 2))  # of t = 2 arctan(exp(-log_snr / 2)) / pi
    inside = abs(LEVELS) < 9.5
    np.testing.assert_allclose(numbers.density[inside], slope[inside] * 1.0044, rtol=0.1, atol=2e-3)
    np.testing.assert_allclose(
        numbers.weight[inside], numbers.density[inside] * (1 + np.exp(-LEVELS[inside])), rtol=0.05
    )
    assert np.exp(-0.5 * numbers.called[[0, -1]]) == pytest.approx([80, 0.02], rel=1e-3)


def test_the_picture_and_the_words(tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    out = tmp_path / "a" / "sheet.png"
    objectives.show(["cosine", "scaled_linear", str(ROOT / "experiments" / "demo.py")], out)
    words = capsys.readouterr().out
    assert words.count("scaled_linear: ") == 2
    assert f"look at {out}" in words
    with Image.open(out) as picture:
        assert picture.size == (1300, 760)
        assert len(set(picture.convert("RGB").get_flattened_data())) > 100
    objectives.show(["cosine"], out)
    assert "nothing to warn of" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "text", "error", "line"),
    [
        ("cosin", None, ValueError, "config.schedule: .*did you mean cosine"),
        ("shifted", None, ValueError, "config.schedule: shifted does not fit here"),
        ("gone.py", None, FileNotFoundError, "there is no config .*gone.py: give a file with get_config"),
        ("bare.py", "x = 1", ValueError, r"has no get_config\(\)"),
    ],
)
def test_what_is_no_objective(name, text, error, line, tmp_path):
    if text:
        (tmp_path / name).write_text(text)
    with pytest.raises(error, match=line):
        objectives.show([str(tmp_path / name) if name.endswith(".py") else name], tmp_path / "out.png")
    assert not (tmp_path / "out.png").exists()
