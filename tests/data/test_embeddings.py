"""A cache of embedded captions gives back what the encoder gave, whatever happened while it was written."""

import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from diffusion_jax.data import embedding_builder, embedding_pieces, embeddings
from diffusion_jax.data.embeddings import Identity, open_cache

ROOT = Path(__file__).parents[2]
LENGTH, DIM = 11, 6
IDENTITY = Identity("e" * 64, "t" * 64, LENGTH, False, "bfloat16", DIM)
CAPTIONS = [f"caption {number}" for number in range(40)]
MASKS = {
    "right": lambda n: np.arange(LENGTH) < n,
    "left": lambda n: np.arange(LENGTH) >= LENGTH - n,
    "all": lambda n: np.ones(LENGTH, bool),
    "hole": lambda n: np.arange(LENGTH) != n,
    "none": lambda n: np.zeros(LENGTH, bool),
}


def encoder(kind="right"):
    """Embeddings that are a function of the caption alone; masked positions hold what nobody should see again."""

    def one(caption):
        rng = np.random.default_rng([*caption.encode(), 0])
        return rng.standard_normal((LENGTH, DIM), np.float32), MASKS[kind](1 + len(caption) % 10)

    def embed(captions):
        values, masks = zip(*map(one, captions), strict=True)
        return np.stack(values), np.stack(masks)

    return embed


def build(root, captions=CAPTIONS, embed=None, identity=IDENTITY, **options):
    options = {"batch_size": 4, "piece_bytes": 400} | options
    return embedding_builder.build(root, captions, embed or encoder(), identity, **options)


def piece_files(root):
    return sorted(Path(root).rglob(f"*{embedding_pieces.SUFFIX}"))


def assert_holds(root, captions=CAPTIONS, kind="right", identity=IDENTITY):
    values, mask = open_cache(root, identity).rows(captions)
    direct, text = encoder(kind)(captions)
    rounded = np.where(text[:, :, None], direct, 0).astype(identity.dtype)
    assert (values.dtype, mask.dtype) == (np.dtype(identity.dtype), np.dtype(bool))
    assert values.tobytes() == rounded.tobytes()  # bit for bit
    np.testing.assert_array_equal(mask, text)


@pytest.mark.parametrize("dtype", embedding_builder.DTYPES)
@pytest.mark.parametrize("kind", MASKS)
def test_embeddings_and_masks_come_back_bit_for_bit(tmp_path, kind, dtype):
    identity = IDENTITY._replace(dtype=dtype)
    assert build(tmp_path, embed=encoder(kind), identity=identity, piece_bytes=30) == len(CAPTIONS) + 1
    assert len(piece_files(tmp_path)) > 2
    assert_holds(tmp_path, [*CAPTIONS, "", *CAPTIONS[::-3], ""], kind, identity)


@pytest.mark.parametrize("length", [1, 7, 8, 9, 16, 77])
def test_any_mask_of_any_length_survives_packing(length):
    rng = np.random.default_rng(length)
    for mask in [*(rng.random((20, length)) < 0.5), np.ones(length, bool), np.zeros(length, bool)]:
        before = rng.standard_normal((length, 3)).astype(ml_dtypes.bfloat16)
        record = embedding_pieces.pack(before[mask], mask)
        assert len(record) == -(-length // 8) + 6 * mask.sum()
        values, found = np.zeros_like(before), np.ones(length, bool)
        embedding_pieces.unpack(record, values, found)
        assert (found == mask).all()
        assert values[mask].tobytes() == before[mask].tobytes()
        assert (values[~mask] == 0).all()


@pytest.mark.parametrize("block", [1, 3, 4096])
def test_a_caption_is_embedded_once_and_the_empty_one_always(tmp_path, monkeypatch, block):
    monkeypatch.setattr(embedding_builder, "BLOCK", block)
    asked = []

    def embed(captions):
        asked.extend(captions)
        return encoder()(captions)

    assert build(tmp_path, ["b", "a", "b", "a"], embed, batch_size=1) == 3
    assert asked == ["", "b", "a"]
    assert build(tmp_path, ["c", "a", ""], embed, batch_size=1) == 1
    assert asked == ["", "b", "a", "c"]
    assert build(tmp_path, [], embed) == 0
    assert open_cache(tmp_path).count == 4
    assert_holds(tmp_path, ["a", "c", "", "b"])


def test_repeats_are_known_however_far_apart_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr(embedding_builder, "BLOCK", 2)
    captions = [f"caption {number}" for number in range(150)]
    assert build(tmp_path, captions + captions[::-1] + captions, encoder()) == 151
    assert open_cache(tmp_path).count == 151


def test_batches_have_one_size_and_what_fills_them_up_is_not_kept(tmp_path):
    sizes = []

    def embed(captions):
        sizes.append(len(captions))
        return encoder()(captions)

    build(tmp_path, CAPTIONS[:9], embed)
    assert sizes == [4, 4, 4]
    assert open_cache(tmp_path).count == 10


def test_captions_are_read_as_a_stream(tmp_path, monkeypatch):
    """Of an endless iterable no more than a block is held, and finished pieces are there before its end."""
    monkeypatch.setattr(embedding_builder, "BLOCK", 8)

    def endless():
        for number in range(10**9):
            if number == 64:
                assert piece_files(tmp_path)
                raise KeyboardInterrupt
            yield f"caption {number}"

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, endless())
    assert build(tmp_path) < len(CAPTIONS)
    assert_holds(tmp_path)


def test_two_shares_are_the_whole(tmp_path):
    counts = [build(tmp_path, shard_index=index, shard_count=2) for index in (0, 1)]
    assert min(counts) > 0
    assert sum(counts) == len(CAPTIONS) + 1
    assert open_cache(tmp_path).count == sum(counts)
    assert_holds(tmp_path, [*CAPTIONS, ""])
    assert build(tmp_path) == 0


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import test_embeddings as test
calls = []
def embed(captions):
    calls.append(captions)
    if len(calls) == 8:
        os.kill(os.getpid(), signal.SIGKILL)
    return test.encoder()(captions)
test.build({root!r}, embed=embed)
"""


def test_a_killed_build_keeps_its_finished_pieces_and_the_next_embeds_the_rest(tmp_path):
    code = KILLED.format(tests=str(Path(__file__).parent), root=str(tmp_path))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    kept = open_cache(tmp_path, IDENTITY).count
    assert 0 < kept <= 28
    assert list(tmp_path.rglob(f".*{embedding_pieces.PART}"))  # it was killed in the middle of a piece
    assert build(tmp_path) == len(CAPTIONS) + 1 - kept
    assert not list(tmp_path.rglob(f".*{embedding_pieces.PART}"))
    assert_holds(tmp_path, [*CAPTIONS, ""])


def test_what_another_build_is_writing_is_left_alone(tmp_path):
    build(tmp_path, CAPTIONS[:3])
    beside = embeddings.folder_of(tmp_path, IDENTITY) / f".0123{embedding_pieces.PART}"

    counts = []

    def embed(captions):
        beside.touch()
        counts.append(build(tmp_path, CAPTIONS[10:12]))
        assert beside.exists()
        return encoder()(captions)

    assert build(tmp_path, CAPTIONS[:8], embed) == 5
    assert counts == [2, 0]
    assert_holds(tmp_path, CAPTIONS[:8] + CAPTIONS[10:12])


def test_an_unfinished_piece_is_not_seen(tmp_path):
    build(tmp_path, CAPTIONS[:8])
    (embeddings.folder_of(tmp_path, IDENTITY) / f".0123{embedding_pieces.PART}").write_bytes(b"half a piece")
    assert_holds(tmp_path, CAPTIONS[:8])


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path, file_size_limit):
    build(tmp_path, CAPTIONS[:8])
    before = piece_files(tmp_path)
    line = (
        r"^embeddings could not be written to \S+: File too large; finished pieces stay, and the same command goes on"
    )
    with file_size_limit(2000), pytest.raises(OSError, match=line):
        build(tmp_path, piece_bytes=10**9)
    assert piece_files(tmp_path) == before
    assert not list(tmp_path.rglob(f".*{embedding_pieces.PART}"))
    assert_holds(tmp_path, CAPTIONS[:8])
    assert build(tmp_path) == len(CAPTIONS) - 8
    assert_holds(tmp_path)


def test_an_encoder_that_fails_leaves_its_own_error_and_whole_pieces(tmp_path):
    calls = []

    def embed(captions):
        calls.append(captions)
        if len(calls) == 8:
            raise RuntimeError("out of memory")
        return encoder()(captions)

    with pytest.raises(RuntimeError, match=r"^out of memory$"):
        build(tmp_path, embed=embed)
    assert not list(tmp_path.rglob(f".*{embedding_pieces.PART}"))
    kept = open_cache(tmp_path).count
    assert 0 < kept <= 28
    assert build(tmp_path) == len(CAPTIONS) + 1 - kept
    assert_holds(tmp_path)


@pytest.mark.parametrize(
    ("field", "here", "words"),
    [
        ("encoder", "f" * 64, "encoder eeeeeeeeeeeeeeee there and ffffffffffffffff here"),
        ("tokenizer", "u" * 64, "tokenizer tttttttttttttttt there and uuuuuuuuuuuuuuuu here"),
        ("max_length", 77, "max_length 11 there and 77 here"),
        ("pad_is_text", True, "pad_is_text False there and True here"),
        ("dtype", "float32", "dtype bfloat16 there and float32 here"),
        ("dim", 512, "dim 6 there and 512 here"),
    ],
)
def test_a_cache_of_another_making_is_refused_with_both_values(tmp_path, field, here, words):
    build(tmp_path, CAPTIONS[:3])
    other = IDENTITY._replace(**{field: here})
    for place in (tmp_path, embeddings.folder_of(tmp_path, IDENTITY)):
        with pytest.raises(ValueError, match=f"^.*is of another making, {words}: run `diffusion-jax data embed .*$"):
            open_cache(place, other)
    assert embeddings.key(other) != embeddings.key(IDENTITY)


def test_caches_lie_side_by_side(tmp_path):
    other = IDENTITY._replace(encoder="f" * 64)
    build(tmp_path)
    build(tmp_path, CAPTIONS[:2], encoder("left"), other)
    assert_holds(tmp_path)
    assert_holds(tmp_path, CAPTIONS[:2], "left", other)
    assert_holds(embeddings.folder_of(tmp_path, other), CAPTIONS[:2], "left", other)
    with pytest.raises(ValueError, match="holds 2 caches: give the folder of one, "):
        open_cache(tmp_path)


@pytest.mark.parametrize(
    ("captions", "words"),
    [
        ([*CAPTIONS, "new"], "1 of 41 captions are not embedded in .*, such as 'new': run `diffusion-jax data embed "),
        (["x", "a", "caption 1", "x"], "3 of 4 captions are not embedded in .*, such as 'x': run "),
        (["Caption 1"], "1 of 1 captions are not embedded"),
        (["a\ud800"], r"A caption is not UTF-8: 'a\\ud800'"),
    ],
)
def test_captions_that_are_not_there(tmp_path, captions, words):
    build(tmp_path)
    with pytest.raises(ValueError, match=words):
        open_cache(tmp_path, IDENTITY).rows(captions)


def test_no_captions(tmp_path):
    build(tmp_path, [])
    values, mask = open_cache(tmp_path).rows([])
    assert (values.shape, mask.shape) == ((0, LENGTH, DIM), (0, LENGTH))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.9999])
def test_a_truncated_piece_is_known_when_it_is_opened(tmp_path, share):
    build(tmp_path, piece_bytes=10**9)
    [path] = piece_files(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert path.stat().st_size < len(content)
    for use in (open_cache, build):
        with pytest.raises(ValueError, match=rf"^{path} is truncated or broken \(.*\): delete it, and run "):
            use(tmp_path)
    path.unlink()
    assert build(tmp_path) == len(CAPTIONS) + 1
    assert_holds(tmp_path)


def test_a_changed_bit_is_never_read_as_an_embedding(tmp_path):
    build(tmp_path, piece_bytes=10**9)
    [path] = piece_files(tmp_path)
    content = path.read_bytes()
    values, mask = open_cache(tmp_path).rows(CAPTIONS)
    found = []
    for place in np.random.default_rng(0).choice(np.flatnonzero(np.frombuffer(content, np.uint8)), 60, replace=False):
        changed = bytearray(content)
        changed[place] ^= 1 << (place % 8)
        path.write_bytes(changed)
        try:
            again, text = open_cache(tmp_path).rows(CAPTIONS)
        except ValueError as error:
            found.append(str(error))
        else:
            assert again.tobytes() == values.tobytes()
            np.testing.assert_array_equal(text, mask)
    assert len(found) > 45
    assert all(line.startswith(f"{path} is truncated or broken") for line in found)


def test_a_broken_record_names_its_piece_and_leaves_the_others(tmp_path):
    build(tmp_path)
    cache = open_cache(tmp_path)
    path = piece_files(tmp_path)[1]
    inside = embedding_pieces.read(path, embeddings.key(IDENTITY)).digests
    lost = [caption for caption in CAPTIONS if np.isin(embeddings.digests([caption]), inside).all()]
    content = bytearray(path.read_bytes())
    values, mask = (each[0] for each in cache.rows(lost[:1]))
    record = embedding_pieces.pack(values[mask], mask)
    content[content.index(record)] ^= 1
    path.write_bytes(content)
    cache = open_cache(tmp_path)  # the listing is whole
    with pytest.raises(ValueError, match=rf"^{path} is truncated or broken \(.*hash mismatch.*\): delete it, and run "):
        cache.rows(CAPTIONS)
    cache.rows([caption for caption in CAPTIONS if caption not in lost])


def test_a_record_of_another_size_names_its_piece(tmp_path):
    build(tmp_path, CAPTIONS[:3])
    key = embeddings.key(IDENTITY)
    short = embedding_pieces.Record(embeddings.digest("short"), b"\xff" * 20, False)
    path = embedding_pieces.write(embeddings.folder_of(tmp_path, IDENTITY), key, iter([short]), 100)
    with pytest.raises(ValueError, match=rf"^{path} is truncated or broken \(.*reshape.*\): delete it"):
        open_cache(tmp_path).rows(["short", *CAPTIONS[:3]])


def test_a_piece_of_another_cache_is_refused(tmp_path):
    other = IDENTITY._replace(encoder="f" * 64)
    build(tmp_path, CAPTIONS[:3])
    build(tmp_path, CAPTIONS[:9], identity=other)
    [piece, *_] = piece_files(embeddings.folder_of(tmp_path, other))
    piece.rename(embeddings.folder_of(tmp_path, IDENTITY) / piece.name)
    with pytest.raises(ValueError, match=r"is a piece of cache .*, in the folder of .*: move it away"):
        open_cache(tmp_path, IDENTITY)


@pytest.mark.parametrize("text", ["{", "[]", '{"identity": {"encoder": "e"}}', "\xff"])
def test_a_damaged_card(tmp_path, text):
    build(tmp_path, CAPTIONS[:3])
    card = embeddings.folder_of(tmp_path, IDENTITY) / embeddings.CARD
    card.write_bytes(text.encode("latin-1"))
    other = IDENTITY._replace(encoder="f" * 64)
    build(tmp_path, CAPTIONS[:2], identity=other)
    assert_holds(tmp_path, CAPTIONS[:2], identity=other)
    with pytest.raises(ValueError, match=f"^{card} is damaged: run `diffusion-jax data embed .*` again$"):
        open_cache(tmp_path, IDENTITY)
    build(tmp_path, CAPTIONS[:3])
    assert_holds(tmp_path, CAPTIONS[:3])


def test_nothing_is_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"^{tmp_path} holds no embedded captions: run `diffusion"):
        open_cache(tmp_path, IDENTITY)
    build(tmp_path, CAPTIONS[:3])
    for path in piece_files(tmp_path):
        path.unlink()
    with pytest.raises(FileNotFoundError, match="has no finished piece: run"):
        open_cache(tmp_path, IDENTITY)


@pytest.mark.parametrize(
    ("embed", "words"),
    [
        (lambda captions: (np.zeros((len(captions), 5, DIM)), np.ones((len(captions), 5), bool)), "and not"),
        (lambda captions: (encoder()(captions)[0], np.ones((len(captions), LENGTH), int)), "and not"),
        (lambda captions: (encoder()(captions)[0] * np.nan, encoder()(captions)[1]), "of '' is not finite"),
        (lambda captions: (encoder()(captions)[0] * 1e39, encoder()(captions)[1]), "of '' is not finite"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_embeddings_that_cannot_be_right(tmp_path, embed, words):
    with pytest.raises(ValueError, match=words):
        build(tmp_path, embed=embed)
    assert not piece_files(tmp_path)


def test_what_is_masked_need_not_be_finite(tmp_path):
    def embed(captions):
        values, mask = encoder()(captions)
        return np.where(mask[:, :, None], values, np.nan), mask

    build(tmp_path, embed=embed)
    assert_holds(tmp_path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"batch_size": 0},
            r"^batch_size is 0, and the share 0 of 1: embed one or more at once, and count shares from 0$",
        ),
        ({"shard_index": 2, "shard_count": 2}, "the share 2 of 2"),
        ({"shard_index": -1}, "the share -1 of 1"),
        ({"identity": IDENTITY._replace(dtype="float16")}, "cannot be stored as float16: choose bfloat16 or float32"),
    ],
)
def test_impossible_settings(tmp_path, options, words):
    with pytest.raises(ValueError, match=words):
        build(tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_the_card_tells_what_made_it_and_how_much_there_is(tmp_path):
    told = []
    cut = lambda caption: caption.endswith("7")  # noqa: E731
    build(tmp_path, CAPTIONS[:30], truncated=cut, progress=told.append, about={"text_encoder": "a folder"})
    card = json.loads((embeddings.folder_of(tmp_path, IDENTITY) / embeddings.CARD).read_text())
    assert card == {
        "key": embeddings.key(IDENTITY),
        "identity": IDENTITY._asdict(),
        "count": 31,
        "truncated": 3,
        "about": {"text_encoder": "a folder"},
    }
    assert told == [4, 8, 12, 16, 20, 24, 28, 31]
    cache = open_cache(tmp_path)
    assert (cache.identity, cache.count, cache.truncated) == (IDENTITY, 31, 3)
    assert cache.size == sum(path.stat().st_size for path in piece_files(tmp_path))


def test_the_index_takes_36_bytes_a_caption_and_goes_to_other_processes(tmp_path):
    build(tmp_path)
    cache = open_cache(tmp_path)
    index = cache.rows.keywords
    assert index["sorted_digests"].nbytes + index["places"].nbytes == 36 * (len(CAPTIONS) + 1)
    cache.rows(CAPTIONS)
    again = pickle.loads(pickle.dumps(cache))
    assert again.rows(CAPTIONS)[0].tobytes() == cache.rows(CAPTIONS)[0].tobytes()
