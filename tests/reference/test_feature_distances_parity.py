"""FD, KID and neighborhoods of the stored features beside torchmetrics, scikit-learn and prdc: the stored numbers."""

import json
from functools import cache, partial

import numpy as np
import prdc
import pytest
import torch
from sklearn.metrics.pairwise import polynomial_kernel
from sklearn.neighbors import NearestNeighbors
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from diffusion_jax.evaluation import feature_distances as d
from diffusion_jax.evaluation import self_check

pytestmark = pytest.mark.reference


class Given(torch.nn.Module):
    """Features that are there already, in place of a network."""

    num_features = self_check.DIM

    def forward(self, features):
        return features


@cache
def both():
    stored = self_check.stored()
    return tuple(stored[name].astype(np.float64) for name in ("real", "generated"))


def expected(name):
    return json.loads(self_check.EXPECTED.read_text())[name]


def fed(metric, real, generated):
    """A metric of torchmetrics of these features, in float64."""
    metric = metric.set_dtype(torch.float64)
    metric.update(torch.from_numpy(real), real=True)
    metric.update(torch.from_numpy(generated), real=False)
    return metric.compute()


@pytest.mark.parametrize(("name", "kept", "of_them"), [("fd", 240, 240), ("fd_of_few", 20, 20), ("fd_to_few", 240, 20)])
def test_fd_is_torchmetrics(name, kept, of_them):
    real, generated = both()[0][:kept], both()[1][:of_them]
    theirs = float(fed(FrechetInceptionDistance(feature=Given()), real, generated))
    found = d.fd(d.moments(real), d.moments(generated))
    print(f"{name}: ours {found:.8f}, torchmetrics {theirs:.8f}")
    assert found == pytest.approx(theirs, rel=1e-5)
    assert expected(name) == pytest.approx(theirs, rel=1e-5)


def test_kid_is_scikit_learns_kernel_over_pairs():
    real, generated = both()
    n = len(real)
    kernel = partial(polynomial_kernel, degree=3, coef0=1)  # gamma is 1 / dim unless told
    apart = 1 - np.eye(n)
    h = kernel(real, real) + kernel(generated, generated) - 2 * kernel(real, generated)
    theirs = np.sum(h * apart) / (n * (n - 1))
    assert d.kid(real, generated).value == pytest.approx(theirs, rel=1e-9)
    assert expected("kid") == pytest.approx(theirs, rel=1e-6)


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance` will save all:UserWarning")
def test_kid_is_torchmetrics_but_for_pairs_of_one_number():
    """Their mean over pairs of a real and a generated sample counts i with i; ours does not."""
    real, generated = both()
    n = len(real)
    theirs = float(fed(KernelInceptionDistance(feature=Given(), subsets=1, subset_size=n), real, generated)[0])
    across = d.cubic(real, generated)
    pairs = (across.sum() - np.trace(across)) / (n * (n - 1))
    found = d.kid(real, generated).value + 2 * (pairs - across.mean())
    orders = []
    for seed in range(32):  # who stands beside whom is chance: within it ours is theirs
        order = np.random.default_rng(seed).permutation(n)
        orders.append(d.kid(real, generated[order]).value)
    print(f"KID: ours {d.kid(real, generated).value:.6f}, torchmetrics {theirs:.6f}, spread {np.std(orders):.6f}")
    assert found == pytest.approx(theirs, rel=1e-4)
    assert abs(np.mean(orders) - theirs) < 4 * np.std(orders) / 32**0.5


@pytest.mark.parametrize("k", [1, 3, 5])
def test_neighborhoods_are_prdcs(k):
    real, generated = both()
    theirs = prdc.compute_prdc(real, generated, nearest_k=k)
    found = d.neighborhoods(real, generated, k)._asdict()
    print(k, found, theirs)
    assert found == pytest.approx({name: float(value) for name, value in theirs.items()}, rel=1e-12)
    if k == 5:
        assert {name: expected(name) for name in found} == pytest.approx(found, rel=1e-6)


def test_precision_is_scikit_learns():
    real, generated = both()
    reach = NearestNeighbors(n_neighbors=5).fit(real).kneighbors()[0][:, -1]
    nearest = NearestNeighbors(n_neighbors=len(real)).fit(real).kneighbors(generated)
    theirs = (nearest[0] <= reach[nearest[1]]).any(1).mean()
    assert d.neighborhoods(real, generated, 5).precision == pytest.approx(theirs, rel=1e-12)
