"""Inception-v3 of FID beside its definition in PyTorch's functions, spelled out, with random weights; and resizing.

pytorch-fid and torch-fidelity, of which this is the definition, both want torchvision, which wants a build of PyTorch
of its own. Beside themselves, once, ours was within 4e-7 (pytorch-fid 0.3.0, torch-fidelity 0.4.0, clean-fid).
"""

import hashlib

import matplotlib
import numpy as np
import pytest
import torch
from jax import jit
from PIL import Image
from torch.nn import functional as F

from diffusion_jax.evaluation.inception_features import inception, prepared
from diffusion_jax.interop import inception_layout
from diffusion_jax.models.inception import Inception

pytestmark = pytest.mark.reference

NAMES = "760681d791cb624e1bf7a2e802a68933dd17aa5e3109fcf498d9dfa521bc10d7"  # SHA-256 of those of pytorch-fid 0.3.0


def pictures(size=80):
    with Image.open(f"{matplotlib.get_data_path()}/sample_data/grace_hopper.jpg") as opened:
        whole = opened.convert("RGB")
    parts = [whole, whole.crop((100, 0, 300, 200)), whole.crop((50, 250, 250, 450))]
    return np.stack([np.asarray(part.resize((size, size + 16))) for part in parts])


def state():
    """Random weights, whose batch norms have seen other data than that which they are given."""
    generator = torch.Generator().manual_seed(0)
    drawn = {}
    for name, shape in inception_layout._shapes().items():
        noise = torch.randn(shape, generator=generator)
        if name.endswith(("running_mean", "bias")):
            drawn[name] = 0.3 * noise
        elif noise.ndim > 1:  # large enough that what tells the pictures apart gets through all of the layers
            drawn[name] = noise * (2 / noise[0].numel()) ** 0.5
        else:
            drawn[name] = 0.5 + torch.rand(shape, generator=generator)
        if name.endswith("running_var"):
            drawn[name.replace("running_var", "num_batches_tracked")] = torch.tensor(7)
    return drawn


def theirs(state, x):
    """Features and logits, one line a layer, as pytorch-fid's blocks have them."""

    def c(name, x, padding=0, stride=1):
        x = F.conv2d(x, state[f"{name}.conv.weight"], stride=stride, padding=padding)
        norm = [state[f"{name}.bn.{each}"] for each in ("running_mean", "running_var", "weight", "bias")]
        return F.relu(F.batch_norm(x, *norm, eps=0.001))

    def average(x):
        return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)

    def a(n, x):
        five = c(f"{n}.branch5x5_2", c(f"{n}.branch5x5_1", x), 2)
        three = c(f"{n}.branch3x3dbl_2", c(f"{n}.branch3x3dbl_1", x), 1)
        three = c(f"{n}.branch3x3dbl_3", three, 1)
        return torch.cat([c(f"{n}.branch1x1", x), five, three, c(f"{n}.branch_pool", average(x))], 1)

    def sevens(n, x, kinds, first=1):
        for number, kind in enumerate(kinds, first):
            x = c(f"{n}_{number}", x, {"-": (0, 3), "|": (3, 0), ".": 0}[kind])
        return x

    def b(n, x):
        parts = sevens(f"{n}.branch7x7", x, ".-|"), sevens(f"{n}.branch7x7dbl", x, ".|-|-")
        return torch.cat([c(f"{n}.branch1x1", x), *parts, c(f"{n}.branch_pool", average(x))], 1)

    def split(n, x):
        return torch.cat([c(f"{n}a", x, (0, 1)), c(f"{n}b", x, (1, 0))], 1)

    def e(n, x, pooled):
        three = split(f"{n}.branch3x3_2", c(f"{n}.branch3x3_1", x))
        double = split(f"{n}.branch3x3dbl_3", c(f"{n}.branch3x3dbl_2", c(f"{n}.branch3x3dbl_1", x), 1))
        return torch.cat([c(f"{n}.branch1x1", x), three, double, c(f"{n}.branch_pool", pooled)], 1)

    x = c("Conv2d_2a_3x3", c("Conv2d_1a_3x3", x, stride=2))
    x = F.max_pool2d(c("Conv2d_2b_3x3", x, 1), 3, 2)
    x = F.max_pool2d(c("Conv2d_4a_3x3", c("Conv2d_3b_1x1", x)), 3, 2)
    for letter in "bcd":
        x = a(f"Mixed_5{letter}", x)
    n = "Mixed_6a"
    double = c(f"{n}.branch3x3dbl_3", c(f"{n}.branch3x3dbl_2", c(f"{n}.branch3x3dbl_1", x), 1), stride=2)
    x = torch.cat([c(f"{n}.branch3x3", x, stride=2), double, F.max_pool2d(x, 3, 2)], 1)
    for letter in "bcde":
        x = b(f"Mixed_6{letter}", x)
    n = "Mixed_7a"
    three = c(f"{n}.branch3x3_2", c(f"{n}.branch3x3_1", x), stride=2)
    x = torch.cat(
        [three, c(f"{n}.branch7x7x3_4", sevens(f"{n}.branch7x7x3", x, ".-|"), stride=2), F.max_pool2d(x, 3, 2)], 1
    )
    x = e("Mixed_7b", x, average(x))
    x = e("Mixed_7c", x, F.max_pool2d(x, 3, 1, 1))
    features = x.mean((2, 3))
    return features, F.linear(features, state["fc.weight"], state["fc.bias"])


def error_of(found, expected) -> float:
    return float(np.abs(np.asarray(found) - np.asarray(expected)).max() / np.abs(np.asarray(expected)).max())


def test_the_names_are_those_of_pytorch_fid():
    names = sorted(f"{name} {tuple(value.shape)}" for name, value in state().items())
    assert hashlib.sha256("\n".join(names).encode()).hexdigest() == NAMES


@pytest.mark.parametrize("size", [299, 139])
def test_features_and_logits_agree(size):
    weights = state()
    x = prepared(pictures(), "clean-fid")[:, :size, :size]
    with torch.no_grad():
        expected = theirs(weights, torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
    ours = inception_layout.params({name: value.numpy() for name, value in weights.items()})
    found = jit(Inception().apply)({"params": ours}, x)
    errors = [error_of(*pair) for pair in zip(found, expected, strict=True)]
    print(f"{size} pixels: max relative error of features {errors[0]:.1e}, of logits {errors[1]:.1e}")
    assert max(errors) <= 1e-5
    assert np.std(expected[0].numpy(), axis=0).max() > 0.3  # the pictures are told apart


def test_a_picture_has_the_features_that_torch_gives_it(tmp_path):
    """From uint8 pixels and a file on, resized by torch's bilinear."""
    weights, x = state(), pictures()
    torch.save(weights, tmp_path / "inception.pth")
    with torch.no_grad():
        pixels = torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).float() / 255
        pixels = F.interpolate(pixels, (299, 299), mode="bilinear", align_corners=False)
        expected = theirs(weights, 2 * pixels - 1)[0]
    error = error_of(inception(tmp_path, batch=2).extract(x), expected)
    print(f"max relative error of features from pixels on: {error:.1e}")
    assert error <= 1e-5


@pytest.mark.parametrize("size", [32, 299, 700])
def test_pixels_between_pixels_are_torchs(size):
    x = pictures(size)
    expected = F.interpolate(
        torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).float(), (299, 299), mode="bilinear", align_corners=False
    )
    found = (prepared(x, "pytorch-fid") + 1) * 127.5
    # torch's places among the pixels are float32: off by up to 3e-5, where a pixel's step is up to 255
    np.testing.assert_allclose(found.transpose(0, 3, 1, 2), expected, atol=1e-2)
