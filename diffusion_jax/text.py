"""From captions to what the denoiser is conditioned on."""

import functools
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from diffusion_jax.data import embeddings, tokenizers
from diffusion_jax.data.tokenizers import BYT5_VOCAB, Tokenizer
from diffusion_jax.files import folder_at, write_json
from diffusion_jax.interop import huggingface
from diffusion_jax.types import Cond, Params

IDENTITY = "identity.json"
AT_ONCE = 8  # captions that an encoder outside of a training step embeds: a last, smaller part is filled up


class Text(NamedTuple):
    """A tokenizer and an encoder that belong together.

    tokenize: captions -> (tokens int32 (captions, length), mask bool of that shape), numpy arrays; tokens are
    embeddings, bfloat16 (captions, length, dim), where the encoder has done its work before.
    init: key -> parameters, or None where there are none. encode: (parameters, tokens, mask, dropout_key=None) -> Cond;
    dropout acts where there is a key. The null caption, of pictures without a caption, is the empty one.
    load: () -> parameters that were trained elsewhere, to begin with instead of init's. describe: writes into a folder
    what, beside parameters, it takes to make this text again. check: raises ValueError where a folder so written tells
    of another text. trained: whether the parameters change in training. tokenizer: captions -> (tokens, mask), where
    tokenize gives embeddings.
    """

    tokenize: Callable
    init: Callable | None
    encode: Callable
    load: Callable | None = None
    describe: Callable | None = None
    check: Callable = lambda folder: None
    trained: bool = True
    tokenizer: Tokenizer | None = None


def jointly_trained(tokenize: Callable, encoder: nn.Module) -> Text:
    """A text encoder whose parameters are trained together with the denoiser's."""

    def init(key: Array) -> Params:
        tokens, mask = tokenize([""])
        return encoder.init(key, jnp.asarray(tokens), jnp.asarray(mask))["params"]

    def encode(
        params: Params,
        tokens: Int[Array, "batch length"],
        mask: Bool[Array, "batch length"],
        dropout_key: Array | None = None,
    ) -> Cond:
        rngs = {} if dropout_key is None else {"dropout": dropout_key}
        embedded = encoder.apply({"params": params}, tokens, mask, deterministic=dropout_key is None, rngs=rngs)
        return Cond(embedded, mask)

    return Text(tokenize, init, encode)


def pretrained(
    tokenize: Tokenizer,
    folder: str | os.PathLike,
    trained: bool = False,
    dtype: str = "float32",
    dropout: float = 0.0,
    cached: bool = False,
    caches: str | os.PathLike | None = None,
) -> Text:
    """The text encoder of a folder, or of a "package:folder", for `load_text_encoder`: as it is, or trained further.

    tokenize: what `tokenizers.pretrained` makes of the same folder. dtype: of matrices and what is computed in; a
    trained one wants float32. dropout: while it is trained, for a family that has any.
    cached: captions are embedded outside of the training step, and the model has no encoder among its parameters.
    caches: where `data embed` keeps embeddings; every caption then has to be there, and the encoder is never loaded.
    Without it, the encoder is loaded at the first caption; its embeddings are rounded as those that are kept.
    Raises ValueError for a tokenizer of another folder, another dtype, dropout without training or in a family without,
    a trained encoder that is to be cached, and what `load_text_encoder` and `embeddings.open_cache` raise.
    """
    if dtype not in ("float32", "bfloat16"):
        raise ValueError(f"dtype is {dtype!r}: an encoder computes in float32 or bfloat16")
    module = huggingface.described(folder, dtype)
    told = getattr(tokenize, "keywords", {}).get("folder")
    if told is None and getattr(module, "vocab", None) != BYT5_VOCAB:
        raise ValueError(f"{folder} knows no bytes: set config.tokenizer to dict(name='pretrained', folder={folder!r})")
    if told is not None and folder_at(told) != folder_at(folder):
        raise ValueError(f"an encoder knows no tokenizer but its own: this is of {folder}, config.tokenizer of {told}")
    if cached and trained:
        raise ValueError("what is cached does not change: set trained or cached, not both")
    if dropout and not (trained and hasattr(module, "dropout")):
        raise ValueError(f"dropout={dropout} acts where an encoder of T5's or BERT's family is trained: leave it out")
    if cached:
        return _embedded(tokenize, folder, dtype, caches)
    joint = jointly_trained(tokenize, module.clone(dropout=dropout) if dropout else module)

    def init(key: Array) -> Params:  # zeros, until they are loaded: to compile the drawing of each would take long
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(joint.init, key))

    return joint._replace(
        init=init,
        load=lambda: huggingface.load_text_encoder(folder, dtype).params,
        describe=lambda to: huggingface.save_description(to, module, tokenize),
        trained=trained,
    )


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


def _embedded(tokenize: Tokenizer, folder: str | os.PathLike, dtype: str, caches: str | os.PathLike | None) -> Text:
    own = functools.cache(lambda: identity(tokenize, folder, dtype))
    rows = embeddings.open_cache(caches, own()).rows if caches else _embedder(tokenize, folder, dtype)

    def encode(
        params: Params | None,
        tokens: Float[Array, "batch length dim"],
        mask: Bool[Array, "batch length"],
        dropout_key: Array | None = None,
    ) -> Cond:
        return Cond(tokens.astype(jnp.float32), mask)

    def describe(to: str | os.PathLike) -> None:
        huggingface.save_description(to, huggingface.described(folder, dtype), tokenize)
        write_json(Path(to) / IDENTITY, own()._asdict())

    def check(described: str | os.PathLike) -> None:
        there = embeddings.Identity(**json.loads((Path(described) / IDENTITY).read_text()))
        if different := embeddings.differences(there, own()):
            raise ValueError(f"{folder} is not the text encoder that {described} tells of: {'; '.join(different)}")

    return Text(rows, None, encode, describe=describe, check=check, trained=False, tokenizer=tokenize)


def _embedder(tokenize: Tokenizer, folder: str | os.PathLike, dtype: str) -> Callable:
    """captions -> (bfloat16 (captions, length, dim), mask), as `Embeddings.rows` gives them, by the encoder itself."""
    known: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    @functools.cache
    def encoder() -> Callable:
        module, params, _ = huggingface.load_text_encoder(folder, dtype)
        return functools.partial(jax.jit(module.apply), {"params": params})

    def rows(captions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        new = [caption for caption in dict.fromkeys(captions) if caption not in known]
        for start in range(0, len(new), AT_ONCE):
            part = new[start : start + AT_ONCE]
            tokens, mask = tokenize(part + [""] * (AT_ONCE - len(part)))
            values = np.where(mask[..., None], encoder()(tokens, mask), 0).astype(jnp.bfloat16)
            known.update(zip(part, zip(values, mask, strict=True), strict=False))
        return tuple(np.stack(column) for column in zip(*(known[caption] for caption in captions), strict=True))

    return rows
