import collections
import functools
import itertools
import json

import numpy as np
import pytest

from diffusion_jax.data.examples import Indexed
from diffusion_jax.data.pipeline import batches, fixed, pick
from diffusion_jax.data.shapes import shapes
from diffusion_jax.data.tokenizers import byt5


def example(index: int) -> dict:
    captions = (f"{index:03}a", f"{index:03}b", f"{index:03}c")
    return {"image": np.full((9, 7, 3), index, np.uint8), "captions": captions, "id": f"{index}"}


def made(count: int = 20, **options):
    given = dict(resolution=4, tokenizer=byt5(8), batch_size=8, seed=1, threads=0) | options
    return batches(Indexed(count, example), **given)


def seen(batch: dict) -> list[str]:
    """The captions of a batch, read back from its tokens."""
    return [
        bytes(row[kept][:-1] - 3).decode()
        for row, kept in zip(batch["tokens"].astype(np.uint8), batch["mask"], strict=True)
    ]


def take(iterator, count: int) -> list[dict]:
    return list(itertools.islice(iterator, count))


def same(a: list[dict], b: list[dict]) -> bool:
    pairs = zip(a, b, strict=True)
    return all((x[name] == y[name]).all() for x, y in pairs for name in ("image", "tokens", "mask"))


def test_a_batch_holds_pictures_and_tokens_that_belong_together():
    for batch in take(made(), 6):
        assert {name: (value.shape, value.dtype) for name, value in batch.items()} == {
            "image": ((8, 4, 4, 3), np.uint8),
            "tokens": ((8, 8), np.int32),
            "mask": ((8, 8), bool),
        }
        assert [int(caption[:3]) for caption in seen(batch)] == batch["image"][:, 0, 0, 0].tolist()


def test_every_epoch_visits_every_example_once_in_a_new_order():
    order = [int(caption[:3]) for batch in take(made(), 10) for caption in seen(batch)]
    epochs = [order[i : i + 20] for i in range(0, 80, 20)]
    assert all(sorted(epoch) == list(range(20)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_a_batch_may_be_larger_than_the_data():
    counts = collections.Counter(caption[:3] for caption in seen(next(made(3, batch_size=10))))
    assert sorted(counts.values()) == [3, 3, 4]


def test_seeds_differ_and_repeat():
    assert same(take(made(seed=5), 4), take(made(seed=5), 4))
    assert not same(take(made(seed=5), 4), take(made(seed=6), 4))


@pytest.mark.parametrize("processes", [2, 4, 8])
def test_processes_read_the_rows_of_the_same_global_batch(processes):
    whole = take(made(), 6)
    parts = [take(made(rows=rows), 6) for rows in np.split(np.arange(8), processes)]
    for step, batch in enumerate(whole):
        for name, value in batch.items():
            assert (np.concatenate([part[step][name] for part in parts]) == value).all()


@pytest.mark.parametrize(
    "options",
    [
        dict(threads=1, prefetch=1),
        dict(threads=3, prefetch=5),
        dict(threads=4, prefetch=0),
        dict(cache_bytes=0),
        dict(threads=2, cache_bytes=0),
    ],
)
def test_reading_ahead_and_caching_change_nothing(options):
    iterator = made(**options)
    assert same(take(iterator, 8), take(made(), 8))
    iterator.close()


def test_worker_processes_change_nothing():
    source = shapes("train", size=16, count=40)
    make = functools.partial(batches, source, resolution=16, tokenizer=byt5(64), batch_size=8, seed=0)
    single, several = make(threads=0), make(workers=2)
    take(single, 2)
    several.set_state(single.get_state())
    expected = take(single, 5)
    assert same(take(several, 5), expected)
    assert several.get_state() == {"next_batch": 7, "seed": 0, "batch_size": 8, "examples": 40}
    several.close()


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("stop", [0, 1, 5])
def test_a_saved_position_goes_on_where_it_was(threads, stop):
    expected = take(made(), 9)
    first = made(threads=threads)
    take(first, stop)
    state = json.loads(json.dumps(first.get_state()))
    first.close()
    second = made(threads=threads)
    take(second, 3)
    second.set_state(state)
    assert same(take(second, 9 - stop), expected[stop:])
    second.close()


def test_a_position_is_good_for_any_number_of_processes():
    whole, half = made(), made(rows=range(4, 8))
    take(whole, 3)
    half.set_state(whole.get_state())
    assert (next(half)["image"] == next(whole)["image"][4:]).all()


@pytest.mark.parametrize(
    ("other", "message"),
    [(dict(seed=2), "seed 1"), (dict(batch_size=4), "batch_size 8"), (dict(count=9), "examples 20")],
)
def test_a_position_of_another_run_is_refused(other, message):
    with pytest.raises(ValueError, match=f"has {message}"):
        made(**other).set_state(made().get_state())


def test_captions_are_drawn_anew_at_each_visit():
    letters = [caption[3] for batch in take(made(main_caption=0.5), 250) for caption in seen(batch)]
    counts = collections.Counter(letters)
    assert counts["a"] / 2000 == pytest.approx(0.5, abs=0.05)
    assert counts["b"] / 2000 == pytest.approx(0.25, abs=0.05)
    of_one = [c for batch in take(made(main_caption=0.5), 50) for c in seen(batch) if c.startswith("007")]
    assert len(set(of_one)) == 3


def test_the_main_caption_alone():
    assert {c[3] for batch in take(made(main_caption=1.0), 20) for c in seen(batch)} == {"a"}
    assert {c[3] for batch in take(made(main_caption=0.0), 20) for c in seen(batch)} == {"b", "c"}


@pytest.mark.parametrize(
    ("draw", "main", "picked"),
    [
        (0.0, 0.5, "a"),
        (0.49, 0.5, "a"),
        (0.5, 0.5, "b"),
        (0.74, 0.5, "b"),
        (0.76, 0.5, "c"),
        (0.9999999, 0.5, "c"),
        (0.0, 0.0, "b"),
    ],
)
def test_pick(draw, main, picked):
    assert pick(("a", "b", "c"), main, draw) == picked
    assert pick(("only",), main, draw) == "only"


def test_batches_can_be_changed_without_harm():
    changed, clean = made(), made()
    for _ in range(6):
        batch = next(changed)
        batch["image"][:], batch["tokens"][:], batch["mask"][:] = 0, 0, False
    assert same(take(changed, 2), take(clean, 8)[6:])


def test_an_error_in_a_thread_reaches_the_caller():
    def broken(index: int) -> dict:
        raise ValueError("cat.png: broken")

    iterator = batches(Indexed(4, broken), resolution=4, tokenizer=byt5(8), batch_size=2, seed=0, threads=2)
    with pytest.raises(ValueError, match=r"cat\.png: broken"):
        next(iterator)
    iterator.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(count=0), "no examples"),
        (dict(batch_size=0), "batch_size 0"),
        (dict(rows=[]), "does not have the 0 rows"),
        (dict(rows=[8]), "batch_size 8 does not have the 1 rows"),
        (dict(seed=-1), "seed is -1"),
        (dict(workers=-1), "cannot be negative"),
        (dict(main_caption=1.5), r"main_caption is in \[0, 1\]"),
        (dict(resolution=0), "resolution is 0"),
        (dict(fit="stretch"), "fit is 'stretch'"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        made(**options)


def test_fixed_is_the_same_every_time_and_shows_main_captions():
    source = Indexed(50, example)
    first, second = (fixed(source, resolution=4, tokenizer=byt5(8), count=12) for _ in range(2))
    assert same([first], [second])
    assert first["captions"] == second["captions"] == seen(first)
    assert len(set(first["ids"])) == 12
    for image, caption, name in zip(first["image"], first["captions"], first["ids"], strict=True):
        assert (image == int(name)).all()
        assert caption == f"{int(name):03}a"
    assert max(map(int, first["ids"])) > 40  # from all over a sorted source


def test_fixed_takes_all_when_there_are_fewer():
    few = fixed(Indexed(5, example), resolution=4, tokenizer=byt5(8), count=12)
    assert sorted(few["ids"]) == list("01234")
    for count, length in ((0, 5), (3, 0)):
        with pytest.raises(ValueError, match=f"Cannot take {count} examples of a source of {length}"):
            fixed(Indexed(length, example), resolution=4, tokenizer=byt5(8), count=count)


def test_however_it_is_stopped_and_shared_every_example_comes_once_in_an_epoch():
    """Three epochs of 20 examples in batches of 4, by one process, by four, by two, and by one again, with stops."""
    seen_by, position = [], {"next_batch": 0, "seed": 1, "batch_size": 4, "examples": 20}
    for processes, count in ((1, 4), (4, 3), (2, 5), (1, 3)):
        parts = [made(batch_size=4, rows=rows) for rows in np.split(np.arange(4), processes)]
        for part in parts:
            part.set_state(position)
        for _ in range(count):
            seen_by += [caption for part in parts for caption in seen(next(part))]
        position = parts[0].get_state()
        for part in parts:
            next(part)  # read, but not saved: it comes again
            part.close()
    assert position["next_batch"] == 15
    for epoch in np.split(np.array([caption[:3] for caption in seen_by]), 3):
        assert len(set(epoch)) == 20
