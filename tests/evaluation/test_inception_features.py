"""FID's features from a file that the user gives: how pictures are resized, and what is refused."""

import hashlib

import numpy as np
import pytest

from diffusion_jax.evaluation import inception_features as f
from diffusion_jax.interop import inception_layout
from diffusion_jax.interop.safetensors_file import save_params


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Random weights as safetensors."""
    rng = np.random.default_rng(0)
    shapes = inception_layout._shapes()
    made = {name: 0.05 * rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    made |= {name: 1 + np.abs(value) for name, value in made.items() if name.endswith(("running_var", "bn.weight"))}
    path = tmp_path_factory.mktemp("weights")
    save_params(path / "inception.safetensors", made)
    return path


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(1).integers(0, 256, (3, 12, 10, 3)).astype(np.uint8)


def test_a_batch_changes_nothing_and_the_name_tells_the_resizing(folder, noise):
    found = f.inception(folder, batch=2)
    together = found.extract(noise)
    assert together.shape == (3, found.dim) == (3, 2048)
    assert together.dtype == np.float32
    assert together.min() >= 0
    np.testing.assert_allclose(found.extract(noise[2:]), together[2:], rtol=1e-4, atol=1e-6)
    assert np.abs(together[0] - together[1]).max() > 1e-3
    file = folder / "inception.safetensors"
    assert found.digest == hashlib.sha256(file.read_bytes()).hexdigest()
    assert found.name == "inception_v3, pytorch-fid"
    with pytest.raises(ValueError, match="uint8 pictures, 0 to 255, not of float64"):
        found.extract(noise / 255)


def interpolated(line, place):
    return np.interp(place, np.arange(len(line)), line)


@pytest.mark.parametrize("size", [5, 299, 640])
def test_resizings_are_linear_between_pixels(size):
    """One line of pixels: where each of 299 lies among them, by the definition; np.interp holds on at the ends."""
    line = np.random.default_rng(0).integers(0, 256, size)
    picture = np.broadcast_to(line[None, None, :, None], (1, 4, size, 3)).astype(np.uint8)
    i = np.arange(299)
    centered = interpolated(line, (i + 0.5) * size / 299 - 0.5) / 255 * 2 - 1
    cornered = (interpolated(line, i * size / 299) - 128) / 128
    for resizing, expected in (("pytorch-fid", centered), ("tensorflow", cornered)):
        found = f.prepared(picture, resizing)
        assert found.dtype == np.float32
        assert found.shape == (1, 299, 299, 3)
        np.testing.assert_allclose(found[0, 7, :, 1], expected, atol=1e-4)
        turned = f.prepared(picture.transpose(0, 2, 1, 3), resizing)
        np.testing.assert_allclose(turned[0, :, 7, 2], expected, atol=1e-4)


def test_clean_resizing_averages_where_pictures_get_smaller():
    board = np.indices((598, 598)).sum(0) % 2 * 255
    picture = np.repeat(board[None, :, :, None], 3, axis=3).astype(np.uint8)
    assert np.abs(f.prepared(picture, "clean-fid")).max() < 0.05
    assert np.abs(f.prepared(picture, "tensorflow")).max() > 0.99


def test_what_is_missing_or_wrong_is_told(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"give pt_inception.*releases of pytorch-fid"):
        f.inception(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no weights of FID's Inception-v3 at .*nowhere.pth"):
        f.inception(tmp_path / "nowhere.pth")
    with pytest.raises(ValueError, match="no resizing 'nearest': there are pytorch-fid, tensorflow"):
        f.inception(folder, resizing="nearest")
    with pytest.raises(ValueError, match="batch is 1 or more"):
        f.inception(folder, batch=0)
    (tmp_path / f.PUBLISHED).write_bytes(b"cut short")
    with pytest.raises(ValueError, match="SHA-256 begins with 6726825d"):
        f.inception(tmp_path)
    save_params(tmp_path / "my_inception.safetensors", {"fc.bias": np.zeros(1008)})
    with pytest.raises(ValueError, match="give one of them"):
        f.inception(tmp_path)
    with pytest.raises(ValueError, match=r"my_inception.safetensors: these tensors .*fc.weight is missing.* more"):
        f.inception(tmp_path / "my_inception.safetensors")
