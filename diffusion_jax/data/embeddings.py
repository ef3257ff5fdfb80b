"""Captions embedded once: a cache on disk, so that no text encoder is in memory where its embeddings are all it takes.

    root/<key>/card.json               what made it, and how much there is
               <digest>.array_record   pieces of about 128 MB; see `embedding_pieces`

An entry's key is the SHA-256 of its caption in UTF-8, and a cache's key that of its `Identity`. A cache only grows:
other captions make further pieces, another encoder another cache beside it. Records are checked when they are read, by
the hashes that array_record keeps of each: a digest of whole files would be another pass over hundreds of gigabytes at
each start, and would not see what breaks later.
"""

import functools
import hashlib
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource

from diffusion_jax.data import embedding_pieces as pieces

CARD = "card.json"
COMMAND = "diffusion-jax data embed --config=CONFIG"


class Identity(NamedTuple):
    """What an embedding depends on besides its caption; two caches with one identity hold the same.

    Up to rounding: which kind of device computed it, and with which version of JAX, is no part of it.
    """

    encoder: str  # digest of the module's settings and its parameters' paths, shapes and bytes
    tokenizer: str  # digest of its class and files; see `tokenizers.digest`
    max_length: int
    pad_is_text: bool
    dtype: str  # what is stored, "bfloat16" or "float32"
    dim: int


class Embeddings(NamedTuple):
    """An open cache; it may be sent to other processes, and threads may read it at the same time.

    rows: captions -> (text_emb (n, max_length, dim) in identity.dtype, text_mask bool (n, max_length)), exactly what
    the encoder gave, rounded, and zero where the mask is False. It raises ValueError for captions that are not there.
    """

    folder: Path
    identity: Identity
    count: int
    truncated: int  # captions that the tokenizer cut short
    size: int  # bytes on disk
    rows: Callable


def key(identity: Identity) -> str:
    """The name of a cache: SHA-256 of its identity, in hexadecimal."""
    return hashlib.sha256(json.dumps(identity._asdict(), sort_keys=True).encode()).hexdigest()


def folder_of(root: str | Path, identity: Identity) -> Path:
    """Where below `root` the cache of an identity lies."""
    return Path(root) / key(identity)[:16]


def digest(caption: str) -> bytes:
    """The key of a caption. Raises ValueError for one that is not UTF-8."""
    try:
        return hashlib.sha256(caption.encode()).digest()
    except UnicodeEncodeError:
        raise ValueError(f"A caption is not UTF-8: {caption[:80]!a}. Save it as UTF-8.") from None


def digests(captions: Sequence[str]) -> np.ndarray:
    """The keys of captions as an array of 32-byte strings."""
    return np.array([digest(caption) for caption in captions], pieces.DIGEST)


def open_cache(root: str | Path, identity: Identity | None = None) -> Embeddings:
    """The cache of an identity below `root`, or in it; without an identity, the only one that is there.

    The index takes 36 bytes of memory for each caption: sorted digests, and the places of their records.
    Raises FileNotFoundError where there is none, and ValueError where those that are there are of another identity
    (what differs is named), for several to choose from, and for a piece that is broken.
    """
    folder, identity = _found(Path(root), identity)
    there = listed(folder, identity)
    if not there:
        raise FileNotFoundError(f"{folder} has no finished piece: run `{COMMAND} --out={folder.parent}` (again)")
    every = np.concatenate([piece.digests for piece in there])
    places = np.argsort(every, kind="stable").astype(np.int32)
    index = dict(sorted_digests=every[places], places=places)
    records = ArrayRecordDataSource([f"{piece.path}[0:{len(piece.digests)}]" for piece in there])
    ends = dict(
        zip([piece.path for piece in there], itertools.accumulate(len(piece.digests) for piece in there), strict=True)
    )
    rows = functools.partial(_rows, folder=folder, identity=identity, records=records, ends=ends, **index)
    truncated, size = sum(piece.truncated for piece in there), sum(piece.path.stat().st_size for piece in there)
    return Embeddings(folder, identity, len(every), truncated, size, rows)


def listed(folder: Path, identity: Identity) -> list[pieces.Piece]:
    """The finished pieces of a cache. Raises ValueError for one that is broken."""
    return [pieces.read(path, key(identity)) for path in sorted(folder.glob(f"*{pieces.SUFFIX}"))]


def looked_up(sorted_digests: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each wanted digest is or would be, and whether it is there."""
    at = np.searchsorted(sorted_digests, wanted)
    if not len(sorted_digests):
        return at, np.zeros(at.shape, bool)
    return at, sorted_digests[np.minimum(at, len(sorted_digests) - 1)] == wanted


def _found(root: Path, identity: Identity | None) -> tuple[Path, Identity]:
    paths = sorted([*root.glob(CARD), *root.glob(f"*/{CARD}")])
    if identity and (own := folder_of(root, identity) / CARD) in paths:
        paths = [own]  # whatever else lies there
    cards = {path.parent: _identity(path) for path in paths}
    if not cards:
        raise FileNotFoundError(f"{root} holds no embedded captions: run `{COMMAND} --out={root}` first")
    if identity is None and len(cards) > 1:
        raise ValueError(f"{root} holds {len(cards)} caches: give the folder of one, {', '.join(map(str, cards))}")
    if identity is None:
        return next(iter(cards.items()))
    nearest = min(cards, key=lambda folder: len(differences(cards[folder], identity)))
    if different := differences(cards[nearest], identity):
        raise ValueError(f"{nearest} is of another making, {'; '.join(different)}: run `{COMMAND}` with this config")
    return nearest, identity


def _identity(card: Path) -> Identity:
    try:
        return Identity(**json.loads(card.read_text("utf-8"))["identity"])
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{card} is damaged: run `{COMMAND} --out={card.parent.parent}` again") from None


def differences(there: Identity, here: Identity) -> list[str]:
    """What differs, each with the value of the cache and the one that is asked for."""
    pairs = zip(Identity._fields, there, here, strict=True)
    return [f"{name} {str(a)[:16]} there and {str(b)[:16]} here" for name, a, b in pairs if a != b]


def _rows(
    captions: Sequence[str],
    *,
    folder: Path,
    identity: Identity,
    sorted_digests: np.ndarray,
    places: np.ndarray,
    records: ArrayRecordDataSource,
    ends: Mapping[Path, int],
) -> tuple[np.ndarray, np.ndarray]:
    at, there = looked_up(sorted_digests, digests(captions))
    if not there.all():
        example = next(caption for caption, found in zip(captions, there, strict=True) if not found)
        raise ValueError(
            f"{(~there).sum()} of {len(captions)} captions are not embedded in {folder}, such as {example[:80]!r}: "
            f"run `{COMMAND} --out={folder.parent}`"
        )
    distinct, whose = np.unique(places[at], return_inverse=True)  # the empty caption comes often
    values = np.zeros((len(distinct), identity.max_length, identity.dim), identity.dtype)
    mask = np.zeros(values.shape[:2], bool)
    try:
        for row, record in enumerate(records.__getitems__(distinct.tolist()) if len(distinct) else ()):
            pieces.unpack(record, values[row], mask[row])
    except Exception:  # which of them it was, the reader does not say
        for number in distinct.tolist():
            try:
                pieces.unpack(records[number], np.zeros_like(values[0]), np.zeros_like(mask[0]))
            except Exception as error:
                raise pieces.broken(next(path for path, end in ends.items() if number < end), error) from None
        raise
    return values[whose], mask[whose]
