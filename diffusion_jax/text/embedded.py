"""A text encoder outside of the training step: captions come as embeddings, kept on a disk or made when asked for."""

import functools
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from diffusion_jax.data import embeddings, tokenizers
from diffusion_jax.data.tokenizers import Tokenizer
from diffusion_jax.files import write_json
from diffusion_jax.interop import huggingface
from diffusion_jax.text.record import Text
from diffusion_jax.types import Cond, Keys, Params

IDENTITY = "identity.json"
AT_ONCE = 8  # captions that are embedded when asked for: a last, smaller part is filled up
KEPT = 256  # captions whose embeddings are kept for the next time


def identity(tokenize: Tokenizer, folder: str | os.PathLike, dtype: str = "float32") -> embeddings.Identity:
    """What the embeddings of a folder's encoder depend on; raises as `load_text_encoder` does."""
    module, told = huggingface.described(folder, dtype), tokenize.keywords
    return embeddings.Identity(
        encoder=huggingface.digest(folder, dtype),
        tokenizer=tokenizers.digest(tokenize),
        max_length=told["max_length"],
        pad_is_text=told.get("pad_is_text", False),
        dtype="bfloat16",
        dim=module.dim,
    )


def embedded(
    tokenize: Tokenizer, folder: str | os.PathLike, module: nn.Module, dtype: str, caches: str | os.PathLike | None
) -> Text:
    """The text encoder of a folder as embeddings, out of its cache below `caches` or by itself: see `pretrained`."""
    own = functools.cache(lambda: identity(tokenize, folder, dtype))
    rows = embeddings.open_cache(caches, own()).rows if caches else _embedder(tokenize, folder, dtype)

    def encode(
        params: Params | None,
        tokens: Float[Array, "batch length dim"],
        mask: Bool[Array, "batch length"],
        dropout_keys: Keys | None = None,
    ) -> Cond:
        return Cond(tokens.astype(jnp.float32), mask)

    def describe(to: str | os.PathLike) -> None:
        huggingface.save_description(to, module, tokenize)
        write_json(Path(to) / IDENTITY, own()._asdict())

    def check(described: str | os.PathLike) -> None:
        try:
            there = embeddings.Identity(**json.loads((Path(described) / IDENTITY).read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(
                f"{Path(described) / IDENTITY} is missing or damaged, and nothing else says which encoder the model "
                "was trained with: copy it from where the model comes from"
            ) from error
        if different := embeddings.differences(there, own()):
            raise ValueError(f"{folder} is not the text encoder that {described} tells of: {'; '.join(different)}")

    cut = functools.partial(tokenizers.truncated, tokenizer=tokenize)
    return Text(rows, None, encode, cut, describe=describe, check=check, trained=False)


def _embedder(tokenize: Tokenizer, folder: str | os.PathLike, dtype: str) -> Callable:
    """captions -> (bfloat16 (captions, length, dim), mask), as `Embeddings.rows` gives them, by the encoder itself."""
    known: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    @functools.cache
    def encoder() -> Callable:
        module, params, _ = huggingface.load_text_encoder(folder, dtype)
        return functools.partial(jax.jit(module.apply), {"params": params})

    def rows(captions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        if len(known) > KEPT:
            known.clear()
        new = [caption for caption in dict.fromkeys(captions) if caption not in known]
        for start in range(0, len(new), AT_ONCE):
            part = new[start : start + AT_ONCE]
            tokens, mask = tokenize(part + [""] * (AT_ONCE - len(part)))
            values = np.where(mask[..., None], encoder()(tokens, mask), 0).astype(jnp.bfloat16)
            known.update(zip(part, zip(values, mask, strict=True), strict=False))
        return tuple(np.stack(column) for column in zip(*(known[caption] for caption in captions), strict=True))

    return rows
