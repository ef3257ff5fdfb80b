"""Curves of a run, whole or hardly begun."""

import json

import numpy as np
import pytest
from PIL import Image

from diffusion_jax.evaluation import plots

LOSSES = [{"step": i, "train/loss": 1 / i} for i in range(1, 60)]
GAPS = [
    {
        "step": i,
        "validation/matched": 0.1,
        "validation/shuffled": 0.1 + i / 1000,
        "validation/gap": i / 1000,
        "validation/gap_standard_error": 0.002,
        "validation/log_snr": [-4.0, 0.0],
    }
    for i in range(1, 40, 10)
]


def drawn(tmp_path, text):
    (tmp_path / "metrics.jsonl").write_text(text)
    plots.training_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        return np.asarray(picture.convert("RGB"))


def lines(records):
    return "".join(json.dumps(record) + "\n" for record in records)


@pytest.mark.parametrize(
    "text",
    [
        "",
        lines(LOSSES[:1]),
        lines([{"step": 1, "train/loss": float("nan")}]),
        lines([{"step": 1, "validation/gap": 0.1}]),
        lines([{"step": 1, "validation/gap": 0.1, "validation/gap_standard_error": float("nan")}]),
        '[1, 2]\n{"no": "step"}\n{"step": 4, "train/lo',
    ],
)
def test_short_and_broken_logs_are_drawn(tmp_path, text):
    assert (drawn(tmp_path, text) < 128).any()


def test_each_series_is_on_the_picture(tmp_path):
    whole = drawn(tmp_path, lines(LOSSES + GAPS))
    for left_out in ("train/loss", "validation/matched", "validation/shuffled", "validation/gap"):
        fewer = [{k: v for k, v in record.items() if k != left_out} for record in LOSSES + GAPS]
        assert (drawn(tmp_path, lines(fewer)) != whole).any(), left_out


def test_a_missing_log_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        plots.training_curves(tmp_path / "nowhere.jsonl", tmp_path / "curves.png")


def test_smoothing_is_a_mean_over_neighbors():
    values = np.array([0.0, 3.0, 6.0, 9.0, 0.0])
    np.testing.assert_allclose(plots.smoothed(values, 3), [1.5, 3, 6, 5, 4.5])
    np.testing.assert_array_equal(plots.smoothed(values, 0), values)
    np.testing.assert_allclose(plots.smoothed(values, 100), np.full(5, values.mean()))
