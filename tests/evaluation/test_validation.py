"""The held-out errors: right on models whose error is known, and the same in batches of any size."""

import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion import parameterization, schedules
from diffusion_jax.evaluation import validation
from diffusion_jax.types import Cond

LEVELS = (-2.0, 0.0, 3.0)


def pictures(count=6, side=4):
    """Plain gray pictures, each of the shade that its caption's one token says."""
    shades = np.linspace(20, 235, count).astype(np.int32)
    return {
        "image": np.broadcast_to(shades[:, None, None, None], (count, side, side, 3)).astype(np.uint8),
        "tokens": shades[:, None],
        "mask": np.ones((count, 1), bool),
        "captions": [str(shade) for shade in shades],
    }


def encode(params, tokens, mask):
    return Cond(tokens[:, :, None].astype(jnp.float32) / 127.5 - 1, mask)


def reads(params):
    """A network that predicts x_0 from the text alone, `params` of the way from gray to it."""
    return lambda x_t, log_snr, cond: jnp.broadcast_to(params * cond.text_emb[:, :, :, None], x_t.shape)


def errors(network, predict, params, batch):
    error = validation.make_validation_error(network, encode, schedules.cosine(), predict, LEVELS)
    return {
        name: np.asarray(value) for name, value in error(params, {k: jnp.asarray(v) for k, v in batch.items()}).items()
    }


def test_a_model_that_reads_its_text():
    batch = validation.with_others(pictures())
    found = errors(reads, parameterization.x0_prediction, jnp.float32(1.0), batch)
    np.testing.assert_allclose(found["matched"], 0, atol=1e-9)
    shade, other = (batch[name][:, 0] / 127.5 - 1 for name in ("tokens", "other_tokens"))
    np.testing.assert_allclose(found["shuffled"], np.repeat(((shade - other) ** 2)[:, None], 3, 1), rtol=1e-5)


def test_a_model_that_ignores_its_text():
    found = errors(reads, parameterization.x0_prediction, jnp.float32(0.0), validation.with_others(pictures()))
    np.testing.assert_array_equal(found["matched"], found["shuffled"])
    assert validation.summarize([found], LEVELS)["validation/gap"] == 0


def test_errors_are_in_x_0_whatever_is_predicted():
    """Predicting no noise at all is an error of mean |eps|^2, about 1, in eps: times (sigma_t / alpha_t)^2 in x_0."""

    def silent(params):
        return lambda x_t, log_snr, cond: jnp.zeros_like(x_t)

    batch = validation.with_others(pictures(count=64, side=8))
    found = errors(silent, parameterization.eps_prediction, None, batch)["matched"].mean(0)
    np.testing.assert_allclose(found, np.exp(-np.array(LEVELS)), rtol=0.03)


def test_the_noise_of_a_picture_does_not_depend_on_the_batch():
    def copies(params):
        return lambda x_t, log_snr, cond: x_t

    batch = validation.with_others(pictures())
    together = errors(copies, parameterization.v_prediction, None, batch)["matched"]
    part = {name: column[[4, 1]] for name, column in batch.items()}
    np.testing.assert_array_equal(
        errors(copies, parameterization.v_prediction, None, part)["matched"], together[[4, 1]]
    )
    assert len(np.unique(together)) == together.size  # and differs between pictures and levels


@pytest.mark.parametrize(
    ("captions", "others"),
    [
        ("abc", [1, 2, 0]),
        ("aab", [2, 2, 0]),
        ("aba", [1, 2, 1]),
        ("aaa", [0, 1, 2]),
        ("a", [0]),
    ],
)
def test_others_have_another_caption(captions, others):
    assert validation.others(list(captions)).tolist() == [others]


def test_another_other_each_round():
    assert validation.others(list("abac"), rounds=4).T.tolist() == [
        [1, 3, 1, 3],
        [2, 3, 0, 2],
        [3, 1, 3, 1],
        [0, 1, 2, 0],
    ]


def test_rounds_bring_other_noise_and_count_once():
    batch = validation.with_others(pictures(), rounds=2)
    np.testing.assert_array_equal(batch["image"][:6], batch["image"][6:])
    assert len(set(batch["place"])) == 12
    assert not np.any(batch["other_tokens"] == batch["tokens"])
    assert not np.any(batch["other_tokens"][:6] == batch["other_tokens"][6:])
    one = {"matched": np.zeros((3, 1)), "shuffled": np.array([[1.0], [2.0], [6.0]])}
    two = {"matched": np.zeros((3, 1)), "shuffled": np.array([[3.0], [2.0], [0.0]])}
    record = validation.summarize([one, two], levels=(0.0,), rounds=2)
    assert record["validation/examples"] == 3
    assert record["validation/gap"] == pytest.approx(7 / 3)
    assert record["validation/gap_standard_error"] == pytest.approx(np.std([2, 2, 3], ddof=1) / 3**0.5)


def test_summary():
    parts = [
        {"matched": np.array([[1.0, 2.0], [3.0, 4.0]]), "shuffled": np.array([[2.0, 3.0], [3.0, 4.0]])},
        {"matched": np.array([[0.0, 0.0]]), "shuffled": np.array([[5.0, 5.0]])},
    ]
    record = validation.summarize(parts, levels=(-1.0, 1.0))
    assert validation.summarize(parts, (-1.0, 1.0), title="seen")["seen/gap"] == record["validation/gap"]
    assert record["validation/matched"] == pytest.approx(10 / 6)
    assert record["validation/gap"] == pytest.approx(2.0)
    assert record["validation/gap_standard_error"] == pytest.approx(np.std([1, 0, 5], ddof=1) / 3**0.5)
    assert record["validation/examples"] == 3
    assert record["validation/log_snr"] == [-1.0, 1.0]
    np.testing.assert_allclose(record["validation/shuffled_by_level"], [10 / 3, 4.0])


def test_summary_of_one_picture_has_no_spread():
    record = validation.summarize([{"matched": np.zeros((1, 1)), "shuffled": np.ones((1, 1))}], levels=(0.0,))
    assert record["validation/gap_standard_error"] == 0
