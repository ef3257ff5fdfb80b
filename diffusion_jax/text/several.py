"""Several text encoders that read the same captions."""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Shaped

from diffusion_jax.diffusion.keys import folded
from diffusion_jax.text.record import Text
from diffusion_jax.types import Cond, Keys, Params

AXES = {"length": 1, "features": 2}


def joined(encoders: Sequence[Text], along: str = "length") -> Text:
    """One text of several: what their encoders make of a caption, one after the other.

    along: "length" is one sequence, in which vectors of narrower encoders end in zeros (as Stable Diffusion 3 puts T5
    behind CLIP); "features" is longer vectors (as SDXL puts its two CLIPs side by side), for tokenizers that agree on
    what every position is. Parameters are {"encoder_0": ..., "encoder_1": ...}.

    Raises ValueError for fewer than two, another axis, and texts of several kinds: all are trained from nothing, or
    trained further, or as they are, or embedded before; and, when it is called, for masks that differ along features.
    """
    texts = encoders  # which is the config's word
    if len(texts) < 2 or along not in AXES:
        raise ValueError(f"{len(texts)} text encoders along {along!r}: join two or more along {' or '.join(AXES)}")
    if len({(each.init is None, each.load is None, each.trained) for each in texts}) > 1:
        raise ValueError("joined encoders are all trained, or all as they are, or all cached: here they differ")
    names = [f"encoder_{number}" for number in range(len(texts))]
    embedded = texts[0].init is None
    lengths = None if embedded else [each.tokenize([""])[0].shape[1] for each in texts]

    def tokenize(captions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        tokens, masks = zip(*(each.tokenize(captions) for each in texts), strict=True)
        _check_masks(captions, masks, along)
        if embedded:
            return _joined(tokens, along, np), masks[0] if along == "features" else np.concatenate(masks, 1)
        return np.concatenate(tokens, 1), np.concatenate(masks, 1)

    def encode(
        params: Params | None,
        tokens: Shaped[Array, "batch ..."],
        mask: Bool[Array, "batch length"],
        dropout_keys: Keys | None = None,
    ) -> Cond:
        if embedded:
            return texts[0].encode(None, tokens, mask)
        ends = np.cumsum(lengths)[:-1].tolist()
        parts = zip(texts, names, jnp.split(tokens, ends, 1), jnp.split(mask, ends, 1), strict=True)
        conds = [
            each.encode(params[name], *rows, None if dropout_keys is None else folded(dropout_keys, number))
            for number, (each, name, *rows) in enumerate(parts)
        ]
        values, masks = zip(*conds, strict=True)
        return Cond(_joined(values, along, jnp), masks[0] if along == "features" else jnp.concatenate(masks, 1))

    def init(key: Array) -> Params:
        keys = jax.random.split(key, len(texts))
        return {name: each.init(own) for name, each, own in zip(names, texts, keys, strict=True)}

    def every(call: str, folder: Path) -> None:
        for name, each in zip(names, texts, strict=True):
            getattr(each, call)(Path(folder) / name)

    return Text(
        tokenize,
        None if embedded else init,
        encode,
        lambda captions: sum(any(each.truncated([caption]) for each in texts) for caption in captions),
        load=texts[0].load and (lambda: {name: each.load() for name, each in zip(names, texts, strict=True)}),
        describe=texts[0].describe and (lambda folder: every("describe", folder)),
        check=lambda folder: every("check", folder),
        trained=texts[0].trained,
    )


def _joined(values: Sequence[Array | np.ndarray], along: str, numbers) -> Array | np.ndarray:
    if along == "features":
        return numbers.concatenate(values, 2)
    widest = max(value.shape[2] for value in values)
    return numbers.concatenate([numbers.pad(v, ((0, 0), (0, 0), (0, widest - v.shape[2]))) for v in values], 1)


def _check_masks(captions: Sequence[str], masks: Sequence[np.ndarray], along: str) -> None:
    if along == "length":
        return
    if len({mask.shape for mask in masks}) > 1:
        raise ValueError("encoders that are joined along features need tokenizers of one max_length")
    if (different := np.any(masks != masks[0], axis=(0, 2))).any():
        caption = captions[int(np.argmax(different))]
        raise ValueError(f"masks of encoders joined along features differ for {caption[:40]!r}: join them along length")
