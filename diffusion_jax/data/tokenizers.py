"""Captions to tokens.

Bytes need no vocabulary file, so a new language or an emoji is never an unknown word; a pretrained encoder comes with a
tokenizer of its own, and knows no other.
"""

import functools
import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_jax.data.hub import folder_of

IMPORTING = threading.Lock()  # transformers, which loads its parts when they are asked for, is not made for threads

# captions -> (tokens int32 (n, max_length), mask bool (n, max_length)); a mask row is never all False
Tokenizer = Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]]

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.*", "spiece.model")
EXTRA_FILES = ("merges.txt", "special_tokens_map.json", "added_tokens.json")  # beside them, in some folders
BYT5_VOCAB = 384  # 3 special tokens, 256 bytes, 125 sentinels that no caption reaches: the size of published embeddings


def byt5(max_length: int = 64) -> Tokenizer:
    """A tokenizer of UTF-8 bytes, as ByT5 uses: byte b is token b + 3, the end token is 1, padding is 0.

    It returns (tokens int32 (n, max_length), mask bool (n, max_length)). The mask covers the bytes and the end token,
    so the empty caption is the lone end token. A longer caption is cut to max_length - 1 bytes and still ends with the
    end token; `truncated` counts such captions. Text that looks like a special token ("</s>") stays text.
    Rows are cached by caption: the same few captions come back every epoch.

    Raises ValueError for a max_length below 2, and (when called) for a caption that is not UTF-8.
    Reference: Xue et al. 2022, "ByT5: Towards a token-free future with pre-trained byte-to-byte models".
    """
    if max_length < 2:
        raise ValueError(f"max_length is {max_length}; it must hold a byte and the end token: use 2 or more.")
    return functools.partial(_byt5_rows, max_length=max_length)


def pretrained(folder: str | os.PathLike, max_length: int = 64, pad_is_text: bool = False) -> Tokenizer:
    """The tokenizer that transformers finds in a folder, padded on the side and with the token that the folder says.

    folder: also a "package:folder" or a name on the hub; see `hub.folder_of`.
    It returns (tokens int32, mask bool), both (n, max_length). The mask covers the text with its special tokens, or
    everything with pad_is_text: for networks that were trained to look at the padding too (CLIP in Stable Diffusion, T5
    in Stable Diffusion 3 and Flux). Longer captions are cut and keep the end token; `truncated` counts them. Text that
    looks like a special token stays text, which transformers' own default makes that token.

    Raises FileNotFoundError where the folder has no tokenizer, and ValueError for one that is broken or cannot pad.
    """
    folder = folder_of(folder)
    tokenize = _transformers(str(folder))
    if max_length < (least := tokenize.num_special_tokens_to_add() + 1):
        raise ValueError(f"max_length is {max_length}; it must hold a token and the special ones: use {least} or more.")
    return functools.partial(_pretrained_rows, folder=str(folder), max_length=max_length, pad_is_text=pad_is_text)


def save(folder: str | os.PathLike, tokenizer: Tokenizer) -> None:
    """Writes the files of a tokenizer of this file into a folder, from which `pretrained` makes it again.

    max_length and pad_is_text are no part of them. Raises ValueError for a tokenizer of another kind.
    """
    source = _told(tokenizer).get("folder")
    (_transformers(source) if source else _transformers_byt5()).save_pretrained(str(folder))
    _transformers.cache_clear()  # what was read from that folder before is no longer there
    _pretrained_row.cache_clear()


def truncated(captions: Sequence[str], tokenizer: Tokenizer) -> int:
    """How many captions a tokenizer cuts short; for one of another file, those whose last letter has no effect."""
    _refuse_one_string(captions)
    if getattr(tokenizer, "func", None) not in (_byt5_rows, _pretrained_rows):
        pairs = [(tokenizer([caption]), tokenizer([caption[:-1]])) for caption in captions if caption]
        return sum(all(map(np.array_equal, *pair)) for pair in pairs)
    told = tokenizer.keywords
    if "folder" not in told:
        return sum(len(_utf8(caption)) > told["max_length"] - 1 for caption in captions)
    tokenize = _transformers(told["folder"])
    return sum(len(tokenize(caption, verbose=False)["input_ids"]) > told["max_length"] for caption in captions)


def digest(tokenizer: Tokenizer) -> str:
    """SHA-256 of which tokenizer of this file it is: its class, and the names and bytes of its folder's files.

    max_length and pad_is_text are no part of it. Raises ValueError for a tokenizer of another kind.
    """
    folder = _told(tokenizer).get("folder")
    told = hashlib.sha256(type(_transformers(folder) if folder else _transformers_byt5()).__name__.encode())
    patterns = (*TOKENIZER_FILES, *EXTRA_FILES) if folder else ()
    for path in sorted({path for pattern in patterns for path in Path(folder).glob(pattern)}):
        told.update(f"\n{path.name} {path.stat().st_size}\n".encode() + path.read_bytes())
    return told.hexdigest()


def _told(tokenizer: Tokenizer) -> dict[str, Any]:
    if getattr(tokenizer, "func", None) not in (_byt5_rows, _pretrained_rows):
        raise ValueError(f"{tokenizer!r} is no tokenizer of {__name__}: it has to be one that byt5 or pretrained made")
    return tokenizer.keywords


def _byt5_rows(captions: Sequence[str], max_length: int) -> tuple[np.ndarray, np.ndarray]:
    tokens = _stacked(captions, max_length, np.int32, functools.partial(_byt5_row, max_length=max_length))
    return tokens, tokens != 0  # no byte maps to 0, so the padding token alone is masked


def _pretrained_rows(captions, folder: str, max_length: int, pad_is_text: bool) -> tuple[np.ndarray, np.ndarray]:
    row = functools.partial(_pretrained_row, folder=folder, max_length=max_length)
    tokens = _stacked(captions, max_length, np.int32, lambda caption: row(caption)[0])
    return tokens, _stacked(captions, max_length, bool, lambda caption: row(caption)[1]) | pad_is_text


def _stacked(captions: Sequence[str], max_length: int, dtype: type, row: Callable) -> np.ndarray:
    _refuse_one_string(captions)
    return np.stack([row(caption) for caption in captions]) if captions else np.zeros((0, max_length), dtype)


def _refuse_one_string(captions: Sequence[str]) -> None:
    if isinstance(captions, str):
        raise ValueError(f"The tokenizer takes a list of captions and got one string: pass [{captions[:40]!r}].")


@functools.lru_cache(maxsize=1 << 17)
def _pretrained_row(caption: str, folder: str, max_length: int) -> tuple[np.ndarray, np.ndarray]:
    _utf8(caption)
    tokenize = _transformers(folder)
    found = tokenize(caption, padding="max_length", truncation=True, max_length=max_length)
    row = np.asarray(found["input_ids"], np.int32), np.asarray(found["attention_mask"], bool)
    if not row[1].any():  # the empty caption, where no special token stands around it: nothing can look at nothing
        row[1][-1 if tokenize.padding_side == "left" else 0] = True
    for each in row:
        each.flags.writeable = False  # the cache hands the same rows out again
    return row


@functools.cache
def _transformers(folder: str) -> Callable:
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    with IMPORTING:
        from transformers import AutoTokenizer, ByT5Tokenizer

    if not any(found for pattern in TOKENIZER_FILES for found in Path(folder).glob(pattern)):
        raise FileNotFoundError(
            f"{folder} has no tokenizer: fetch its {', '.join(TOKENIZER_FILES)} where there are any"
        )
    told = Path(folder) / "tokenizer_config.json"
    # AutoTokenizer goes by the model in config.json before the class that the tokenizer names: T5, for ByT5.
    family = ByT5Tokenizer if told.is_file() and '"ByT5Tokenizer"' in told.read_text() else AutoTokenizer
    try:
        tokenize = family.from_pretrained(folder, local_files_only=True, split_special_tokens=True)
    except Exception as error:  # of many kinds, by what is broken and in which version
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{folder}: transformers cannot read its tokenizer ({reason}): fetch it again") from error
    if tokenize.pad_token_id is None:
        raise ValueError(f"{folder}: its tokenizer has no padding token, so captions cannot stand side by side")
    return tokenize


@functools.lru_cache(maxsize=1 << 17)
def _byt5_row(caption: str, max_length: int) -> np.ndarray:
    _utf8(caption)
    head = caption[:max_length]  # a character is at least one byte, so the rest is cut anyway, and would take long
    ids = _transformers_byt5()(head, padding="max_length", truncation=True, max_length=max_length)["input_ids"]
    row = np.asarray(ids, np.int32)
    row.flags.writeable = False  # the cache hands the same row out again
    return row


@functools.cache
def _transformers_byt5() -> Callable:
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # that PyTorch is missing is no news here
    with IMPORTING:
        from transformers import ByT5Tokenizer  # here, because the import takes seconds

    return ByT5Tokenizer(split_special_tokens=True)


def _utf8(caption: str) -> bytes:
    try:
        return caption.encode("utf-8")
    except UnicodeEncodeError as error:
        shown = ascii(caption[max(0, error.start - 20) : error.start + 20])
        raise ValueError(f"A caption is not UTF-8 at character {error.start}: {shown}. Save it as UTF-8.") from None
