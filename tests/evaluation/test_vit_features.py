"""Features of DINOv2 and CLIP from small folders, how pictures are prepared, and scores of pictures with captions."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from diffusion_jax.data import tokenizers
from diffusion_jax.evaluation import vit_features as f
from diffusion_jax.interop.huggingface import TextEncoder, save_text_encoder
from diffusion_jax.models.clip_text import ClipTextEncoder
from tests.interop.test_vision import written


def noise(shape=(20, 20), count=3):
    return np.random.default_rng(0).integers(0, 256, (count, *shape, 3)).astype(np.uint8)


@pytest.mark.parametrize("kind", ["dinov2", "clip"])
def test_a_batch_changes_nothing_and_the_name_tells_the_network(tmp_path, kind):
    written(tmp_path, kind)
    found = f.dinov2(tmp_path, batch=2, size=16) if kind == "dinov2" else f.clip(tmp_path, batch=2)
    together = found.extract(noise())
    assert together.shape == (3, found.dim) == (3, 8 if kind == "dinov2" else 6)
    assert together.dtype == np.float32
    np.testing.assert_allclose(found.extract(noise()[2:]), together[2:], rtol=1e-4, atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 1e-3
    told = {
        "dinov2": "dinov2, 8 of 2 layers, 16 pixels, positions of authors",
        "clip": "clip, 8 of 2 layers, 12 pixels",
    }
    assert found.name == told[kind]
    with pytest.raises(ValueError, match="uint8 pictures, 0 to 255, not of float32 from 0 to 0"):
        found.extract(np.zeros((1, 8, 8, 3), np.float32))


def test_pixels_are_as_the_folder_says(tmp_path):
    written(tmp_path, "clip")
    usual = f.clip(tmp_path, batch=1).extract(noise(count=1))
    told = {"image_mean": f.OPENAI[0], "image_std": f.OPENAI[1]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(told))
    np.testing.assert_array_equal(f.clip(tmp_path, batch=1).extract(noise(count=1)), usual)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(told | {"image_std": [1, 1, 1]}))
    assert np.abs(f.clip(tmp_path, batch=1).extract(noise(count=1)) - usual).max() > 1e-3
    prepared = f._of_whole(np.full((1, 9, 9, 3), 51, np.uint8), 4, f._pixels(tmp_path, f.IMAGENET))
    np.testing.assert_allclose(prepared, np.broadcast_to(0.2 - np.array(f.OPENAI[0]), (1, 4, 4, 3)), atol=1e-6)


@pytest.mark.parametrize("shape", [(30, 41), (41, 30), (24, 24), (6, 9)])
def test_the_middle_of_a_picture_is_taken(shape):
    pixels = np.zeros(3, np.float32)[None, None, None], np.ones(3, np.float32)[None, None, None]
    x = noise(shape, 1)
    found = f._of_middle(x, 12, pixels)[0] * 255
    scale = 12 / min(shape)
    whole = Image.fromarray(x[0]).resize((int(shape[1] * scale), int(shape[0] * scale)), Image.Resampling.BICUBIC)
    whole = np.asarray(whole).astype(np.float32)
    top, left = (round((side - 12) / 2) for side in whole.shape[:2])
    np.testing.assert_allclose(found, whole[top : top + 12, left : left + 12], atol=1e-3)


def test_dinov2_refuses_what_it_cannot_take(tmp_path):
    written(tmp_path / "dinov2", "dinov2")
    written(tmp_path / "clip", "clip")
    with pytest.raises(ValueError, match="18 pixels is no multiple of a patch's 4"):
        f.dinov2(tmp_path / "dinov2", size=18)
    with pytest.raises(ValueError, match="there are authors and transformers"):
        f.dinov2(tmp_path / "dinov2", positions="mine")
    with pytest.raises(ValueError, match="batch is 1 or more"):
        f.dinov2(tmp_path / "dinov2", batch=0)
    with pytest.raises(ValueError, match="model_type is 'clip', not dinov2"):
        f.dinov2(tmp_path / "clip")
    with pytest.raises(ValueError, match="model_type is 'dinov2', not clip"):
        f.clip(tmp_path / "dinov2")
    with pytest.raises(FileNotFoundError, match="no folder"):
        f.clip(tmp_path / "nowhere")


def text_folder(path, projection):
    module = ClipTextEncoder(384, 8, 16, 2, 2, max_length=12, end_token=1, projection=projection)
    tokens = jnp.ones((1, 12), jnp.int32)
    params = module.init(jax.random.key(0), tokens, tokens == 1, method="with_pooled")["params"]
    save_text_encoder(path, TextEncoder(module, params, tokenizers.byt5(12)))
    return path


def test_captions_have_vectors_whatever_stands_beside_them(tmp_path):
    encode = f.clip_captions(text_folder(tmp_path / "text", 6), batch=2)
    captions = ["a heart", "b", "a caption that is too long"]
    found = encode(captions)
    assert found.shape == (3, 6)
    np.testing.assert_allclose(encode(captions[2:]), found[2:], rtol=1e-4, atol=1e-5)
    assert np.abs(found[0] - found[1]).max() > 1e-3
    for wrong in ("one text", []):
        with pytest.raises(ValueError, match="captions are a list of one or more texts"):
            encode(wrong)
    with pytest.raises(ValueError, match="no CLIP with a projection"):
        f.clip_captions(text_folder(tmp_path / "alone", 0))


def test_scores_are_a_hundred_cosines_and_none_is_negative():
    a, b = np.array([[3.0, 4], [1, 0], [2, 0]]), np.array([[6.0, 8], [0, 5], [-1, 0]])
    np.testing.assert_allclose(f.clip_scores(a, b), [100, 0, 0])
    np.testing.assert_allclose(f.clip_scores(np.array([[1.0, 1]]), np.array([[1.0, 0]])), [100 / 2**0.5])
    with pytest.raises(ValueError, match="as many pictures as captions"):
        f.clip_scores(a, b[:2])
