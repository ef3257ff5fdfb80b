"""From a source to batches: which examples, with which of their captions, in which order, read by whom.

The content of global batch s depends on (seed, s) only: not on threads, worker processes, prefetching, on how many
processes share the reading, or on where a run was stopped.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags

from diffusion_jax.data.cache import decoded
from diffusion_jax.data.examples import Source
from diffusion_jax.data.order import shuffled, uniform
from diffusion_jax.data.tokenizers import Tokenizer
from diffusion_jax.data.transforms import square

Batch = dict[str, np.ndarray]  # image uint8 (b, h, w, 3), tokens int32 (b, length), mask bool (b, length)


class Batches:
    """An endless iterator of batches whose position is one number.

    get_state() is a small dict of ints for a checkpoint; set_state() goes there, and raises ValueError when the state
    is of another seed, batch size or number of examples, since its position would then mean other pictures. A state
    of other process, thread or worker counts is fine. close() ends the worker processes.
    """

    def __init__(self, dataset: grain.MapDataset, about: dict[str, int], read: Callable):
        self._dataset, self._about, self._read = dataset, about, read
        self._next, self._iterator = 0, None

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> Batch:
        if self._iterator is None:
            self._iterator = iter(self._read(self._dataset[self._next :]))
        batch = next(self._iterator)
        self._next += 1
        return batch

    def get_state(self) -> dict[str, int]:
        return {"next_batch": self._next, **self._about}

    def set_state(self, state: dict[str, Any]) -> None:
        for name, here in self._about.items():
            if int(state[name]) != here:
                raise ValueError(
                    f"The saved data position has {name} {state[name]} and this run has {here}: "
                    "go on with the same data settings, or start a new run folder."
                )
        self.close()
        self._next = int(state["next_batch"])

    def close(self) -> None:
        if self._iterator is not None:
            self._iterator.close()
        self._iterator = None


def batches(
    source: Source,
    *,
    resolution: int,
    tokenizer: Tokenizer,
    batch_size: int,
    seed: int,
    rows: Sequence[int] | np.ndarray | None = None,
    workers: int = 0,
    threads: int = 2,
    prefetch: int = 4,
    main_caption: float = 0.5,
    fit: str = "crop",
    cache_bytes: int = 1 << 30,
) -> Batches:
    """Endless shuffled batches {image uint8 (b, h, w, 3), tokens int32, mask bool}.

    Every epoch is shuffled anew and visits each example once; batches run on over its end, so a batch may be larger
    than the data set. Each visit draws a caption: the first with probability main_caption, else one of the others.
    rows: which of a global batch of batch_size rows to read, b of them: those of one process; None: all.

    threads read ahead up to `prefetch` batches while the accelerator works (threads=0: read when asked); workers > 0
    does the same in that many processes, which only decoding of large pictures needs: each is a fresh Python with its
    own cache, and the main program needs the usual `if __name__ == "__main__"`. Resized pictures are kept in memory
    if all of them fit in cache_bytes. fit is "crop" or "pad" for pictures that are not square.

    Raises ValueError for an empty source, rows that a batch does not have, or a number out of range.
    """
    if len(source) == 0:
        raise ValueError("The data source holds no examples: check its path, split and filters.")
    rows = np.arange(batch_size) if rows is None else np.asarray(rows, np.int64)
    if batch_size < 1 or len(rows) == 0 or min(rows) < 0 or max(rows) >= batch_size:
        raise ValueError(f"A batch of batch_size {batch_size} does not have the {len(rows)} rows that were asked for.")
    if not 0 <= seed < 2**32:
        raise ValueError(f"The data seed is {seed}; choose one in [0, 2**32).")
    if min(workers, threads, prefetch, cache_bytes) < 0 or not 0 <= main_caption <= 1:
        raise ValueError("workers, threads, prefetch and cache_bytes cannot be negative; main_caption is in [0, 1].")

    pictures = decoded(source, resolution, fit, cache_bytes)
    arguments = dict(rows=rows, batch_size=batch_size, seed=seed, main_caption=main_caption)
    read = functools.partial(_batch_at, pictures=pictures, tokenizer=tokenizer, **arguments)
    about = {"seed": seed, "batch_size": batch_size, "examples": len(source)}
    return Batches(grain.MapDataset.range(2**40).map(read), about, _reader(workers, threads, prefetch))


def _batch_at(
    number: int,
    pictures: Source,
    tokenizer: Tokenizer,
    rows: np.ndarray,
    batch_size: int,
    seed: int,
    main_caption: float,
) -> Batch:
    """These rows of global batch `number`: a pure function, which is what makes a run repeatable."""
    positions = number * batch_size + rows
    examples = [pictures[index] for index in shuffled(positions, len(pictures), seed).tolist()]
    draws = uniform(positions, seed, "caption").tolist()
    captions = [pick(e["captions"], main_caption, draw) for e, draw in zip(examples, draws, strict=True)]
    tokens, mask = tokenizer(captions)
    return {"image": np.stack([example["image"] for example in examples]), "tokens": tokens, "mask": mask}


def pick(captions: Sequence[str], main_caption: float, draw: float) -> str:
    """The first caption if draw (uniform in [0, 1)) is below main_caption, else one of the others, each as likely."""
    if len(captions) == 1 or draw < main_caption:
        return captions[0]
    rest = (draw - main_caption) / (1 - main_caption)
    return captions[1 + min(int(rest * (len(captions) - 1)), len(captions) - 2)]


def fixed(source: Source, *, resolution: int, tokenizer: Tokenizer, count: int, fit: str = "crop") -> dict[str, Any]:
    """The same `count` examples at every call, with their main captions: what a validation looks at.

    Returns {image uint8 (count, h, w, 3), tokens int32, mask bool, captions: list of str, ids: list of str}; all the
    examples when the source has fewer. They are drawn from all over the source, because sources are often sorted.

    Raises ValueError for an empty source or a count below 1.
    """
    if len(source) == 0 or count < 1:
        raise ValueError(f"Cannot take {count} examples of a source of {len(source)}.")
    chosen = np.random.RandomState(0).permutation(len(source))[:count]  # this legacy stream is frozen for good
    examples = [source[int(index)] for index in chosen]
    captions = [example["captions"][0] for example in examples]
    tokens, mask = tokenizer(captions)
    images = np.stack([square(example["image"], resolution, fit) for example in examples])
    return {"image": images, "tokens": tokens, "mask": mask, "captions": captions, "ids": [e["id"] for e in examples]}


def _reader(workers: int, threads: int, prefetch: int) -> Callable:
    options = grain.ReadOptions(num_threads=min(threads, prefetch), prefetch_buffer_size=prefetch if threads else 0)
    if workers == 0:
        return lambda dataset: dataset.to_iter_dataset(options)
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # grain reads absl flags to start workers, which fails outside absl's app.run
    ahead = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=max(1, prefetch // workers))
    return lambda dataset: dataset.to_iter_dataset(grain.ReadOptions(0, 0)).mp_prefetch(ahead)
