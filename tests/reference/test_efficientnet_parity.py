"""EfficientNet-Lite0 beside efficientnet_lite_pytorch: features and logits, random and real weights, and their file."""

import matplotlib
import numpy as np
import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet
from jax import jit
from PIL import Image

from diffusion_jax.evaluation import features as f
from diffusion_jax.files import folder_at
from diffusion_jax.interop.efficientnet_layout import params
from diffusion_jax.interop.torch_file import load_tensors
from diffusion_jax.models.efficientnet import EfficientNetLite0

pytestmark = pytest.mark.reference

PATH = folder_at(f.FOLDER) / f.FILE


def photograph():
    with Image.open(f"{matplotlib.get_data_path()}/sample_data/grace_hopper.jpg") as opened:
        return np.asarray(opened.convert("RGB"))


def real():
    return torch.load(PATH, weights_only=True)


def drawn():
    """Random weights, whose batch norms have seen other data than that which they are given."""
    torch.manual_seed(0)
    state = EfficientNet.from_name("efficientnet-lite0").state_dict()
    for name, value in state.items():
        if name.endswith(("running_mean", "bias")):
            value.copy_(0.3 * torch.randn_like(value))
        elif value.ndim > 1:  # large enough that what tells the pictures apart gets through all of the layers
            torch.nn.init.kaiming_normal_(value)
        elif name.endswith("running_var") or name.endswith("weight"):
            value.copy_(0.5 + torch.rand_like(value))
    return state


def pictures():
    """A photograph, parts of it, and noise: (4, 224, 224, 3), as the network wants them."""
    whole = photograph()
    parts = [whole, whole[:200, 100:300], whole[250:450, 50:250]]
    noise = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3)).astype(np.uint8)
    return (np.concatenate([f.resized(part[None], 224) for part in (*parts, noise[0])]) - f.MEAN) / f.DEVIATION


def error_of(found, expected) -> float:
    return float(np.abs(np.asarray(found) - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("weights", [real, drawn])
def test_features_and_logits_agree(weights):
    state, x = weights(), pictures()
    network = EfficientNet.from_name("efficientnet-lite0").eval()
    network.load_state_dict(state)
    with torch.no_grad():
        theirs = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
        expected = network.extract_features(theirs).mean((2, 3)).numpy(), network(theirs).numpy()
    ours = params({name: value.numpy() for name, value in state.items()})
    found = jit(EfficientNetLite0().apply)({"params": ours}, x)
    errors = [error_of(*pair) for pair in zip(found, expected, strict=True)]
    print(f"{weights.__name__} weights: max relative error of features {errors[0]:.1e}, of logits {errors[1]:.1e}")
    assert max(errors) <= 1e-4
    assert np.std(expected[0], axis=0).max() > 0.1  # the pictures are told apart


def test_the_file_is_read_as_torch_reads_it():
    expected, found = real(), load_tensors(PATH)
    assert list(found) == list(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value.numpy())


def test_a_picture_has_the_features_that_torch_gives_it():
    """From uint8 pixels on, resized by torch's antialiased bicubic, which is Pillow's up to rounding."""
    whole = photograph()
    found = f.efficientnet_lite0(batch=1).extract(whole[None])
    network = EfficientNet.from_name("efficientnet-lite0").eval()
    network.load_state_dict(real())
    with torch.no_grad():
        x = torch.from_numpy(whole.transpose(2, 0, 1)[None].astype(np.float32))
        x = torch.nn.functional.interpolate(x, size=(224, 224), mode="bicubic", antialias=True, align_corners=False)
        expected = network.extract_features((x.clamp(0, 255) - 127) / 128).mean((2, 3)).numpy()
    error = error_of(found, expected)
    print(f"max relative error of features from pixels on: {error:.1e}")
    assert error <= 1e-4


@pytest.mark.parametrize("in_zip", [False, True])
def test_a_file_of_torchs_own_is_read(tmp_path, in_zip):
    state = {
        "whole": torch.arange(6.0).reshape(2, 3),
        "turned": torch.arange(6.0).reshape(2, 3).T,
        "n": torch.tensor(3),
    }
    state["part"] = state["whole"][:, 1:]
    torch.save(state, tmp_path / "state.pth", _use_new_zipfile_serialization=in_zip)
    found = load_tensors(tmp_path / "state.pth")
    for name, value in state.items():
        np.testing.assert_array_equal(found[name], value.numpy())
    torch.save({"module": torch.nn.Linear(2, 2)}, tmp_path / "more.pth", _use_new_zipfile_serialization=in_zip)
    with pytest.raises(ValueError, match=r"no file of plain tensors .*it asks for torch"):
        load_tensors(tmp_path / "more.pth")
