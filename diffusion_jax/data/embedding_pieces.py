"""Embedded captions in one file, a piece: written once, whole or not at all, and read by place.

A piece is an array_record file with a record for each caption, and one more at its end, the listing. A record holds the
mask, a bit a position from the first on, filled up to whole bytes, and then the vectors of the positions that are text,
little-endian, in their order. So a mask comes back as it was, whatever it looks like: padded on the right, on the left,
or all text. What stood at masked positions is not kept; it comes back as zero.

The listing is a line of JSON ({"cache": key, "count": n, "truncated": n}), a line feed, and the 32-byte digests of the
captions in the order of their records. It lies in the same file, so no file can be out of step with its index.
"""

import contextlib
import hashlib
import itertools
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import ml_dtypes  # noqa: F401  (makes "bfloat16" a NumPy dtype)
import numpy as np
from array_record.python import array_record_module
from jaxtyping import Bool, Shaped

from diffusion_jax.data.broken import BrokenData

SUFFIX = ".array_record"
PART = ".part"  # pieces that are being written; a killed process leaves them behind
DIGEST = np.dtype("S32")  # of a caption: it sorts and compares as its 32 bytes do
OPTIONS = "group_size:1,uncompressed"  # zstd takes a fifth off normal numbers, and 2.5 times as long to read


class Record(NamedTuple):
    """A caption's digest, its packed embedding, and whether the tokenizer cut the caption short."""

    digest: bytes
    content: bytes
    truncated: bool


class Piece(NamedTuple):
    """What the listing of a file says."""

    path: Path
    digests: np.ndarray
    truncated: int


def pack(vectors: Shaped[np.ndarray, "text dim"], mask: Bool[np.ndarray, " length"]) -> bytes:
    """The vectors of a caption's text, in the dtype that they have, and where they stand, as a record."""
    return np.packbits(mask).tobytes() + vectors.tobytes()


def unpack(record: bytes, values: Shaped[np.ndarray, "length dim"], mask: Bool[np.ndarray, " length"]) -> None:
    """Fills the row `values`, which is zero before, and its mask from a record. Raises ValueError for another size."""
    bits = -(-len(mask) // 8)
    mask[:] = np.unpackbits(np.frombuffer(record, np.uint8, bits), count=len(mask))
    values[mask] = np.frombuffer(record, values.dtype, offset=bits).reshape(mask.sum(), values.shape[1])


def write(folder: Path, key: str, records: Iterator[Record], max_bytes: int) -> Path | None:
    """Takes records until they have max_bytes and makes them a piece; None where none were left.

    The file gets its name, a digest of its listing, when all of it is on the disk: until then no reader sees it.
    Raises OSError where it cannot be written; nothing of it is left then.
    """
    first = next(records, None)
    if first is None:
        return None
    temporary = folder / f".{uuid.uuid4().hex}{PART}"
    digests, truncated, size = [], 0, 0
    with contextlib.ExitStack() as at_the_end:
        at_the_end.callback(temporary.unlink, missing_ok=True)
        with _one_line(folder):
            writer = array_record_module.ArrayRecordWriter(str(temporary), OPTIONS)
        at_the_end.callback(_closed, writer)
        for record in itertools.chain([first], records):
            with _one_line(folder):
                writer.write(record.content)
            digests.append(record.digest)
            truncated, size = truncated + record.truncated, size + len(record.content)
            if size >= max_bytes:
                break
        header = {"cache": key, "count": len(digests), "truncated": truncated}
        listing = json.dumps(header).encode() + b"\n" + b"".join(digests)
        path = folder / f"{hashlib.sha256(listing).hexdigest()[:16]}{SUFFIX}"
        with _one_line(folder):
            writer.write(listing)
            writer.close()
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            temporary.rename(path)
    return path


def read(path: Path, key: str) -> Piece:
    """The listing of a piece. Raises ValueError for a file that is truncated, broken or of another cache."""
    try:
        reader = array_record_module.ArrayRecordReader(str(path), "readahead_buffer_size:0")
        header, _, digests = reader.read([reader.num_records() - 1])[0].partition(b"\n")
        count = reader.num_records() - 1
        reader.close()
        about = json.loads(header)
        if about["count"] != count or len(digests) != count * DIGEST.itemsize:
            raise ValueError(f"it lists {about['count']} captions and holds {count}")
    except Exception as error:  # the reader raises RuntimeError, IndexError and others
        raise broken(path, error) from None
    if about["cache"] != key:
        raise ValueError(f"{path} is a piece of cache {about['cache'][:16]}, in the folder of {key[:16]}: move it away")
    return Piece(path, np.frombuffer(digests, DIGEST), int(about["truncated"]))


def broken(path: Path, error: Exception) -> BrokenData:
    """What to say of a piece that cannot be read."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
    return BrokenData(
        f"{path} is truncated or broken ({reason}): delete it, and run `diffusion-jax data embed` again, which embeds "
        "its captions anew"
    )


def _closed(writer: array_record_module.ArrayRecordWriter) -> None:
    with contextlib.suppress(RuntimeError):  # it failed before, and says so again
        writer.close()


@contextlib.contextmanager
def _one_line(folder: Path) -> Iterator[None]:
    """Makes an OSError of what array_record raises when the disk does not take it."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        known = ("No space left on device", "File too large", "Disk quota exceeded")
        reason = next((words for words in known if words in str(error)), str(error).splitlines()[0][:200])
        raise OSError(
            f"embeddings could not be written to {folder}: {reason}; finished pieces stay, and the same command goes on"
        ) from None
