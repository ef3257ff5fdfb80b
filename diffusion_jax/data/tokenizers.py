"""Captions to tokens: bytes need no vocabulary file, so a new language or an emoji is never an unknown word."""

import functools
import os
from collections.abc import Callable, Sequence

import numpy as np

# captions -> (tokens int32 (n, max_length), mask bool (n, max_length)); a mask row is never all False
Tokenizer = Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]]

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


def truncated(captions: Sequence[str], max_length: int = 64) -> int:
    """How many of the captions `byt5(max_length)` cuts short."""
    return sum(len(_utf8(caption)) > max_length - 1 for caption in captions)


def _byt5_rows(captions: Sequence[str], max_length: int) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(captions, str):
        raise ValueError(f"The tokenizer takes a list of captions and got one string: pass [{captions[:40]!r}].")
    if not captions:
        return np.zeros((0, max_length), np.int32), np.zeros((0, max_length), bool)
    tokens = np.stack([_byt5_row(caption, max_length) for caption in captions])
    return tokens, tokens != 0  # no byte maps to 0, so the padding token alone is masked


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
    from transformers import ByT5Tokenizer  # here, because the import takes seconds

    return ByT5Tokenizer(split_special_tokens=True)


def _utf8(caption: str) -> bytes:
    try:
        return caption.encode("utf-8")
    except UnicodeEncodeError as error:
        shown = ascii(caption[max(0, error.start - 20) : error.start + 20])
        raise ValueError(f"A caption is not UTF-8 at character {error.start}: {shown}. Save it as UTF-8.") from None
