"""Features of DINOv2 and of CLIP's image encoder, from folders that the user gives, and CLIP scores.

features = dinov2("dinov2-large")  # config.json and model.safetensors, as transformers writes them
encode = clip_captions("clip-vit-large-patch14")
scores = clip_scores(clip("clip-vit-large-patch14").extract(samples), encode(captions))
"""

import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import jax
import numpy as np
from jax.typing import ArrayLike
from PIL import Image

from diffusion_jax.evaluation.features import Features, check_batch, extract, resized
from diffusion_jax.files import folder_at
from diffusion_jax.interop.huggingface import described, load_text_encoder
from diffusion_jax.interop.vision import ImageEncoder, load_image_encoder

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and deviation of pixels in [0, 1]
OPENAI = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # clipscore.py of Hessel et al.
OFFSETS = {"authors": 0.1, "transformers": 0.0}


def dinov2(folder: str | os.PathLike, batch: int = 32, size: int = 224, positions: str = "authors") -> Features:
    """DINOv2's class token, as FD_DINOv2 has it (Stein et al. 2023, with ViT-L/14, at 224 pixels: dgm-eval).

    Pictures are resized as clean-fid does it. positions: "authors", as the authors' code places its positions where a
    picture has not as many patches as in training, or "transformers". size: a multiple of the patch. batch: pictures at
    once. Raises FileNotFoundError where something is missing, and ValueError for what is no DINOv2.
    """
    check_batch(batch)
    if positions not in OFFSETS:
        raise ValueError(f"no positions {positions!r}: there are {' and '.join(OFFSETS)}")
    encoder = load_image_encoder(folder, ("dinov2",))
    if size < 1 or size % encoder.module.patch:
        raise ValueError(f"a picture of {size} pixels is no multiple of a patch's {encoder.module.patch}")
    module = encoder.module.clone(offset=OFFSETS[positions])
    prepare = partial(_of_whole, size=size, pixels=_pixels(folder, IMAGENET))
    name = f"dinov2, {module.dim} of {module.layers} layers, {size} pixels, positions of {positions}"
    return _features(name, encoder._replace(module=module), prepare, module.dim, batch)


def clip(folder: str | os.PathLike, batch: int = 32) -> Features:
    """CLIP's vectors of pictures after the projection, not normalized.

    folder: of CLIP as a whole, or of its image encoder with projection. The shorter side gets the network's size, by
    Pillow's bicubic filter of uint8 pixels, and the middle of the longer one is taken, as in OpenAI's code. Raises
    FileNotFoundError where something is missing, and ValueError for what is no CLIP.
    """
    check_batch(batch)
    encoder = load_image_encoder(folder, ("clip",))
    module = encoder.module
    size = module.patch * module.grid
    prepare = partial(_of_middle, size=size, pixels=_pixels(folder, OPENAI))
    name = f"clip, {module.dim} of {module.layers} layers, {size} pixels"
    return _features(name, encoder, prepare, module.projection, batch)


def clip_captions(folder: str | os.PathLike, batch: int = 32) -> Callable[[Sequence[str]], np.ndarray]:
    """Captions -> CLIP's vectors of them after the projection, float32 (n, dim), not normalized.

    folder: of CLIP as a whole with its tokenizer, or of the text encoder with projection. Captions are cut to the
    tokens that there are positions for. Raises FileNotFoundError where something is missing, ValueError for no CLIP.
    """
    check_batch(batch)
    module = described(folder)
    if not getattr(module, "projection", 0):
        raise ValueError(f"{folder} is no CLIP with a projection of captions: give the folder of CLIP as a whole")
    module, params, tokenizer = load_text_encoder(folder, max_length=module.max_length)

    @jax.jit
    def run(params, tokens, mask):
        with jax.default_matmul_precision("float32"):  # GPUs and TPUs would round to fewer digits
            return module.apply({"params": params}, tokens, mask, method="pooled")

    def encode(captions: Sequence[str]) -> np.ndarray:
        if isinstance(captions, str) or not len(captions):
            raise ValueError(f"captions are a list of one or more texts, not {captions!r}")
        parts = []
        for start in range(0, len(captions), batch):
            part = list(captions[start : start + batch])
            rows = tokenizer(part + [""] * (batch - len(part)))  # one compilation
            parts.append(np.asarray(run(params, *rows))[: len(part)])
        return np.concatenate(parts)

    return encode


def clip_scores(of_pictures: ArrayLike, of_captions: ArrayLike) -> np.ndarray:
    """100 max(cosine, 0) of picture i and caption i, float64 (n,): the convention of text-to-image papers.

    Hessel et al. (2021, "CLIPScore") have 2.5 in place of 100, and put "A photo depicts" before each caption. Raises
    ValueError for shapes that do not fit.
    """
    a, b = (np.asarray(each, np.float64) for each in (of_pictures, of_captions))
    if a.ndim != 2 or a.shape != b.shape:
        raise ValueError(f"a score is of as many pictures as captions, (n, dim) each, not of {a.shape} and {b.shape}")
    cosine = np.sum(a * b, axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return 100 * np.maximum(cosine, 0)


def _features(name: str, encoder: ImageEncoder, prepare: Callable, dim: int, batch: int) -> Features:
    @jax.jit
    def run(params, pictures):
        with jax.default_matmul_precision("float32"):  # GPUs and TPUs would round to fewer digits
            return encoder.module.apply({"params": params}, pictures)

    return Features(
        name, encoder.digest, dim, partial(extract, partial(run, encoder.params), prepare=prepare, batch=batch)
    )


def _pixels(folder: str | os.PathLike, usual: tuple) -> tuple[np.ndarray, np.ndarray]:
    """The mean and deviation of pixels, by preprocessor_config.json where there is one."""
    path = Path(folder_at(folder) or folder) / "preprocessor_config.json"
    told = json.loads(path.read_text()) if path.is_file() else {}
    both = told.get("image_mean", usual[0]), told.get("image_std", usual[1])
    mean, deviation = (np.asarray(each, np.float32)[None, None, None] for each in both)
    return mean, deviation


def _of_whole(pictures: np.ndarray, size: int, pixels: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    return (resized(pictures, size) / np.float32(255) - pixels[0]) / pixels[1]


def _of_middle(pictures: np.ndarray, size: int, pixels: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    height, width = pictures.shape[1:3]
    scaled = [int(size * side / min(height, width)) for side in (width, height)]
    left, top = (round((side - size) / 2) for side in scaled)
    box = (left, top, left + size, top + size)
    cut = [Image.fromarray(each).resize(scaled, Image.Resampling.BICUBIC).crop(box) for each in pictures]
    return (np.stack([np.asarray(each, np.float32) for each in cut]) / np.float32(255) - pixels[0]) / pixels[1]
