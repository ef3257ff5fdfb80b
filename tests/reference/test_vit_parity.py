"""DINOv2 and CLIP beside transformers, with random weights in folders that transformers wrote."""

import math

import jax
import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    Dinov2Config,
    Dinov2Model,
)

from diffusion_jax.data import tokenizers
from diffusion_jax.evaluation import vit_features as f
from diffusion_jax.interop.vision import load_image_encoder
from diffusion_jax.models.vit import between

pytestmark = pytest.mark.reference

SIZES = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=4)
VISION = SIZES | dict(intermediate_size=80, image_size=48, patch_size=8)
TEXT = dict(
    hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=20
)


def stirred(model):
    """Random numbers in place of the first zeros and ones, large enough that attention is sharp."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ("norm" in name or "lambda" in name) and "bias" not in name:
                weight.uniform_(0.5, 1.5)
            elif weight.ndim in (0, 1) or "token" in name or "position" in name:
                weight.normal_(std=0.3)
            else:
                weight.normal_(std=1.5 * weight[0].numel() ** -0.5)
    return model.eval()


def dinov2(path, **changes):
    model = stirred(Dinov2Model(Dinov2Config(**SIZES | dict(image_size=70, patch_size=14) | changes)))
    model.save_pretrained(path)
    return model


def whole_clip(path, end=1):
    """byt5's end token is 1."""
    text = TEXT | dict(vocab_size=384, eos_token_id=end, bos_token_id=3, pad_token_id=0)
    model = stirred(CLIPModel(CLIPConfig(text_config=text, vision_config=VISION, projection_dim=28)))
    model.save_pretrained(path)
    tokenizers.save(path, tokenizers.byt5(20))
    return model


def noise(size, count=3):
    return np.random.default_rng(0).normal(size=(count, *size, 3)).astype(np.float32)


def to_torch(x):
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def pictures(shape=(64, 96)):
    with Image.open(f"{matplotlib.get_data_path()}/sample_data/grace_hopper.jpg") as opened:
        whole = opened.convert("RGB")
    parts = [whole, whole.crop((100, 0, 300, 200)), whole.crop((50, 250, 250, 450))]
    return np.stack([np.asarray(part.resize(shape[::-1])) for part in parts])


def error_of(found, expected) -> float:
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("size", [(70, 70), (56, 56), (224, 224), (42, 84)])
def test_dinov2_agrees(tmp_path, size):
    reference = dinov2(tmp_path)
    module, params, _ = load_image_encoder(tmp_path)
    x = noise(size)
    with torch.no_grad():
        expected = reference(pixel_values=to_torch(x)).last_hidden_state[:, 0]
    error = error_of(jax.jit(module.apply)({"params": params}, x), expected)
    print(f"DINOv2, {size}: max relative error {error:.1e}")
    assert error <= 1e-5


def test_dinov2_of_the_published_form_has_its_positions_interpolated_to_224(tmp_path):
    """37 x 37 positions, and 16 x 16 patches."""
    reference = dinov2(tmp_path, image_size=518, num_hidden_layers=2)
    x = pictures()
    features = f.dinov2(tmp_path, batch=2, positions="transformers")
    with torch.no_grad():
        pixels = to_torch(f._of_whole(x, 224, f._pixels(tmp_path, f.IMAGENET)))
        expected = reference(pixel_values=pixels).last_hidden_state[:, 0]
    error = error_of(features.extract(x), expected)
    print(f"DINOv2 from pixels on, 518 to 224: max relative error {error:.1e}")
    assert error <= 1e-5
    other = error_of(f.dinov2(tmp_path, batch=2).extract(x), expected)
    print(f"with positions where the authors' code has them: {other:.1e} apart")
    assert other > 1e-4


@pytest.mark.parametrize(("grid", "size"), [(37, 16), (16, 37), (5, 5), (3, 1)])
@pytest.mark.parametrize("offset", [0.0, 0.1])
def test_positions_are_interpolated_as_torch_does(grid, size, offset):
    """By its size as transformers does, and by a factor as the authors' code does."""
    x = torch.randn(1, 4, grid, grid, generator=torch.Generator().manual_seed(0))
    factor = (size + offset) / math.sqrt(grid**2)
    told = dict(scale_factor=(factor, factor)) if offset else dict(size=(size, size))
    expected = F.interpolate(x, mode="bicubic", align_corners=False, **told)[0]
    matrix = between(grid, size, offset)
    found = np.einsum("ri,cij,sj->crs", matrix, x[0].numpy(), matrix)
    assert error_of(found, expected) <= 1e-5


@pytest.mark.parametrize("whole", [True, False])
def test_clip_of_pictures_agrees(tmp_path, whole):
    if whole:
        reference = whole_clip(tmp_path)
    else:
        config = CLIPVisionConfig(**VISION, projection_dim=28, hidden_act="gelu")
        reference = stirred(CLIPVisionModelWithProjection(config))
        reference.save_pretrained(tmp_path)
    module, params, _ = load_image_encoder(tmp_path)
    x = noise((48, 48))
    with torch.no_grad():
        out = reference.vision_model(pixel_values=to_torch(x))
        expected = reference.visual_projection(out.pooler_output)
    error = error_of(jax.jit(module.apply)({"params": params}, x), expected)
    print(f"CLIP, whole {whole}: max relative error {error:.1e}")
    assert error <= 1e-5


def test_clip_scores_agree_from_pictures_and_captions_on(tmp_path):
    reference = whole_clip(tmp_path)
    captions = ["a red heart", "b", "a caption that is longer than there are positions"]
    x = pictures((48, 48))
    tokens, mask = tokenizers.byt5(20)(captions)
    mean, deviation = (np.asarray(each, np.float32)[None, None, None] for each in f.OPENAI)
    with torch.no_grad():
        out = reference(
            input_ids=torch.from_numpy(np.asarray(tokens)).long(),
            attention_mask=torch.from_numpy(np.asarray(mask)).long(),
            pixel_values=to_torch((x / np.float32(255) - mean) / deviation),
        )
    of_pictures, of_captions = f.clip(tmp_path, batch=2).extract(x), f.clip_captions(tmp_path, batch=2)(captions)
    units = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in (of_pictures, of_captions)]
    errors = error_of(units[0], out.image_embeds), error_of(units[1], out.text_embeds)
    cosine = np.sum(out.image_embeds.numpy() * out.text_embeds.numpy(), axis=1)
    scores = f.clip_scores(of_pictures, of_captions)
    print(f"CLIP from pixels and captions on: {errors[0]:.1e}, {errors[1]:.1e}; scores {scores}")
    assert max(errors) <= 1e-5
    np.testing.assert_allclose(scores, 100 * np.maximum(cosine, 0), atol=1e-3)
    assert scores.max() > 1
