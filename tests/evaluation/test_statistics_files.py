"""Statistics of features in files: ours back again, those of others, and what is refused."""

import os
import pickle

import numpy as np
import pytest

from diffusion_jax.evaluation.feature_distances import Moments, fd, moments
from diffusion_jax.evaluation.features import Features
from diffusion_jax.evaluation.statistics_files import load_moments, save_moments

OF_FOUR = Features("a network", "ab" * 32, 4, np.asarray)


def found(n=30, dim=4, seed=0):
    return moments(np.random.default_rng(seed).normal(size=(n, dim)))


@pytest.mark.parametrize("n", [30, 3])
def test_ours_come_back_with_their_number(tmp_path, n):
    wanted = found(n)
    save_moments(tmp_path / "ours.npz", wanted, OF_FOUR)
    back = load_moments(tmp_path / "ours.npz", OF_FOUR)
    assert back.count == n
    np.testing.assert_array_equal(back.mean, wanted.mean)
    np.testing.assert_array_equal(back.covariance, wanted.covariance)
    assert fd(back, found(seed=1)) == pytest.approx(fd(wanted, found(seed=1)), rel=1e-6)
    assert os.listdir(tmp_path) == ["ours.npz"]


def test_those_of_others_are_read_and_their_pictures_are_not(tmp_path):
    """guided-diffusion's have the pictures too; here they would be a pickle if anyone read them."""
    wanted, spatial = found(), found(dim=7)
    theirs = {"mu": wanted.mean.astype(np.float32), "sigma": wanted.covariance}
    theirs |= {"mu_s": spatial.mean, "sigma_s": spatial.covariance, "arr_0": np.array([{}], object)}
    np.savez(tmp_path / "theirs.npz", **theirs)
    back = load_moments(tmp_path / "theirs.npz", OF_FOUR)
    assert back.count == 0
    assert back.mean.dtype == np.float64
    np.testing.assert_allclose(back.mean, wanted.mean, rtol=1e-6)
    assert fd(back, wanted) == pytest.approx(0, abs=1e-6)
    np.testing.assert_array_equal(load_moments(tmp_path / "theirs.npz", keys=("mu_s", "sigma_s")).mean, spatial.mean)


class Command:
    def __reduce__(self):
        return os.system, ("echo run > ran",)


EYE = np.eye(4)
WRONG = {
    "has no sigma, but mu": {"mu": np.zeros(4)},
    r"a mean \(1, 4\) and a covariance \(4, 4\)": {"mu": np.zeros((1, 4)), "sigma": EYE},
    r"a mean \(3,\) and a covariance \(4, 4\)": {"mu": np.zeros(3), "sigma": EYE},
    "not finite": {"mu": np.full(4, np.nan), "sigma": EYE},
    "is of 5 features, and a network has 4": {"mu": np.zeros(5), "sigma": np.eye(5)},
    "whose digest is cd, not abab": {"mu": np.zeros(4), "sigma": EYE, "digest": "cd"},
    "whose name is another, not a network": {"mu": np.zeros(4), "sigma": EYE, "name": "another"},
    "no file of statistics: .*allow_pickle": {"mu": np.array([Command()], object), "sigma": EYE},
    "no file of statistics: could not convert": {"mu": np.array(["a"]), "sigma": EYE},
}


@pytest.mark.parametrize("reason", WRONG)
def test_what_are_no_such_statistics_is_told(tmp_path, monkeypatch, reason):
    monkeypatch.chdir(tmp_path)
    np.savez("wrong.npz", **WRONG[reason])
    with pytest.raises(ValueError, match=reason):
        load_moments(tmp_path / "wrong.npz", OF_FOUR)
    assert os.listdir(tmp_path) == ["wrong.npz"]


def test_pickles_and_broken_files_are_refused_and_nothing_of_them_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no statistics at .*: give an .npz with mu and sigma"):
        load_moments("nowhere.npz")
    for name in ("edm2.pkl", "disguised.npz"):
        (tmp_path / name).write_bytes(pickle.dumps(Command()))
        with pytest.raises(ValueError, match=r"is a pickle, which may run|no file of statistics: .*allow_pickle"):
            load_moments(name)
    save_moments(tmp_path / "whole.npz", found(), OF_FOUR)
    whole = (tmp_path / "whole.npz").read_bytes()
    for size in (0, 4, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.npz").write_bytes(whole[:size])
        with pytest.raises(ValueError, match="no file of statistics"):
            load_moments("cut.npz")
    assert "ran" not in os.listdir(tmp_path)
    with pytest.raises(ValueError, match="moments of 3 features are none of a network, which has 4"):
        save_moments("no.npz", Moments(9, np.zeros(3), np.eye(3)), OF_FOUR)
