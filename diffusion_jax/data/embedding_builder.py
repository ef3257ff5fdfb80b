"""Fills a cache of embedded captions: each caption once, in pieces that are whole or not there at all."""

import fcntl
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_jax.data import embedding_pieces as pieces
from diffusion_jax.data.embeddings import CARD, Identity, digest, digests, folder_of, key, listed, looked_up
from diffusion_jax.files import write_json

BLOCK = 256  # captions that are looked up at once: reading is ahead of embedding by no more
DTYPES = ("bfloat16", "float32")


def build(
    root: str | Path,
    captions: Iterable[str],
    embed: Callable,
    identity: Identity,
    *,
    batch_size: int = 32,
    shard_index: int = 0,
    shard_count: int = 1,
    truncated: Callable = lambda caption: False,
    progress: Callable = lambda done: None,
    about: Mapping[str, Any] | None = None,
    piece_bytes: int = 1 << 27,
) -> int:
    """Embeds the captions that are not in the cache yet, and the empty one; returns how many it embedded.

    captions may come any number of times and without end in sight: none is kept but those of a block. Only finished
    pieces count. Killed at any moment, it loses the piece at hand, and the same call embeds what is missing. Several
    hosts share the work by digest, modulo shard_count, in one folder: each gets the same captions, or all that it has.
    Two builds of the same share at once do no harm, but all of it twice.

    embed: batch_size captions -> (text_emb (batch_size, max_length, dim), mask bool); a short batch is filled up with
    the empty caption, so its shapes never change. truncated: caption -> whether the tokenizer cuts it short.
    progress: told, after each batch, how many are embedded by now. about: more for card.json, for people.
    Raises ValueError for an embedding that is not of the identity's shape or not finite, and for broken pieces; OSError
    on a full disk. Finished pieces stay.
    """
    check_work(batch_size, shard_index, shard_count)
    if identity.dtype not in DTYPES:
        raise ValueError(f"embeddings cannot be stored as {identity.dtype}: choose {' or '.join(DTYPES)}")
    folder = folder_of(root, identity)
    folder.mkdir(parents=True, exist_ok=True)
    done = 0

    def told(count: int) -> None:
        nonlocal done
        done += count
        progress(done)

    with _beside_others(folder):
        there = _carded(folder, identity, about)
        known = np.sort(np.concatenate([np.empty(0, pieces.DIGEST), *(piece.digests for piece in there)]))
        missing = _missing(itertools.chain([""], captions), known, shard_index, shard_count)
        records = _records(missing, embed, identity, batch_size, truncated, told)
        while pieces.write(folder, key(identity), records, piece_bytes):
            pass
        _carded(folder, identity, about)
    return done


def check_work(batch_size: int, shard_index: int, shard_count: int) -> None:
    """Raises ValueError for a batch without captions, or a share that there is not."""
    if batch_size < 1 or not 0 <= shard_index < shard_count:
        raise ValueError(
            f"batch_size is {batch_size}, and the share {shard_index} of {shard_count}: embed one or more at once, and "
            "count shares from 0"
        )


def _missing(captions: Iterable[str], known: np.ndarray, shard_index: int, shard_count: int) -> Iterator[str]:
    """The captions of a share that are not known, each once."""
    recent: set[bytes] = set()  # known since; a sorted array takes a third of the memory, and is dear to insert into
    for block in _blocks(captions, BLOCK):
        found, first = np.unique(digests(block), return_index=True)
        share = found.view(">u8").reshape(-1, 4)[:, 0] % np.uint64(shard_count)
        _, there = looked_up(known, found)
        new = [i for i in np.flatnonzero((share == shard_index) & ~there) if found[i] not in recent]
        recent.update(found[new].tolist())
        yield from (block[i] for i in np.sort(first[new]))
        if len(recent) > 16 * BLOCK + len(known) // 8:
            known = np.sort(np.concatenate([known, np.array([*recent], pieces.DIGEST)]))
            recent.clear()


def _records(captions, embed, identity, batch_size, truncated, told) -> Iterator[pieces.Record]:
    for batch in _blocks(captions, batch_size):
        values, mask = map(np.asarray, embed(batch + [""] * (batch_size - len(batch))))
        shape = batch_size, identity.max_length, identity.dim
        if values.shape != shape or mask.shape != shape[:2] or mask.dtype != bool:
            raise ValueError(f"embeddings are {values.shape} with masks {mask.shape} {mask.dtype}, and not {shape}")
        for caption, row, text in zip(batch, values, mask, strict=False):  # what fills a batch up is not kept
            vectors = row[text].astype(identity.dtype)
            if not np.isfinite(vectors.astype(np.float32)).all():
                raise ValueError(f"the embedding of {caption[:80]!r} is not finite: is the encoder's dtype too small?")
            yield pieces.Record(digest(caption), pieces.pack(vectors, text), bool(truncated(caption)))
        told(len(batch))


def _blocks(captions: Iterable[str], size: int) -> Iterator[list[str]]:
    captions = iter(captions)
    while block := list(itertools.islice(captions, size)):
        yield block


def _carded(folder: Path, identity: Identity, about: Mapping[str, Any] | None) -> list[pieces.Piece]:
    """The pieces of a cache, whose card now says how many captions are in them."""
    there = listed(folder, identity)
    counts = {"count": sum(len(piece.digests) for piece in there), "truncated": sum(piece.truncated for piece in there)}
    write_json(folder / CARD, {"key": key(identity), "identity": identity._asdict(), **counts, "about": about or {}})
    return there


@contextmanager
def _beside_others(folder: Path) -> Iterator[None]:
    """Works beside other builds; the first of them clears away what killed ones left. Locks go with their processes."""
    with open(folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for left in folder.glob(f".*{pieces.PART}"):
                left.unlink(missing_ok=True)
        except BlockingIOError:
            pass  # what looks left behind may be theirs
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield
