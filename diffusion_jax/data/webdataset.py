"""The web-scale form of captioned pictures: tar shards as img2dataset writes them, converted once for random access.

A shard holds 000012.jpg, 000012.txt and 000012.json after each other. Shards come from anywhere: they are streamed,
nothing is extracted to disk, sizes are bounded and nothing is unpickled. A converted record is one line of JSON
({"id": ..., "captions": [...]}), a line feed, and the picture's bytes as they were.
"""

import functools
import json
import multiprocessing
import os
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from array_record.python import array_record_module
from array_record.python.array_record_data_source import ArrayRecordDataSource

from diffusion_jax.data.broken import reading
from diffusion_jax.data.examples import Example, Indexed, Source
from diffusion_jax.data.folder import clean
from diffusion_jax.data.splits import SPLITS, check_held_out, check_split, split_of
from diffusion_jax.data.transforms import decode
from diffusion_jax.files import write_json

PICTURES = ("jpg", "jpeg", "png", "webp")
MAX_BYTES = 64 << 20  # of one member of a tar
LISTING = "dataset.json"


def array_record(path: str | Path, split: str) -> Source:
    """The captioned pictures that `convert` wrote into the folder `path`.

    Raises FileNotFoundError when there is no finished conversion, ValueError when a shard of it is broken or the split
    holds nothing. Reading an example raises BrokenData, with its file, when the record is broken.
    """
    check_split(split)
    listing = Path(path) / LISTING
    if not listing.is_file():
        raise FileNotFoundError(f"{path} holds no finished conversion: run `diffusion-jax data convert` first (again).")
    try:
        names = json.loads(listing.read_text("utf-8"))["shards"][split]
        shards = [str(Path(path) / Path(name).name) for name in names]  # a listing cannot point out of its folder
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{listing} is broken: convert the tar files again.") from None
    if not shards:
        raise ValueError(f'{path} holds no "{split}" examples: convert with another held_out fraction.')
    try:
        records = ArrayRecordDataSource(shards)
    except Exception as error:  # the reader raises RuntimeError, ValueError and others
        raise ValueError(f"A shard in {path} is missing or broken: {_one_line(error)}") from None
    place = records, [(shard, None) for shard in shards]
    return Indexed(len(records), functools.partial(_read, *place), functools.partial(_captions, *place))


def convert(
    tars: Sequence[str | Path],
    out_dir: str | Path,
    held_out: float = 0.05,
    caption_key: str = "caption",
    workers: int = 1,
) -> dict:
    """Convert tar shards into the folder out_dir, for `array_record`; broken and captionless rows are only counted.

    A caption is the .txt of a picture, else `caption_key` of its .json (a string or a list). About the fraction
    held_out of the pictures, by name, become "validation". Each tar makes its own files, finished by renaming; running
    it again converts what is missing. workers > 1 converts as many tars at once.

    Returns {"train": n, "validation": n, "skipped": {reason: n}, "shards": {split: [file, ...]}}: dataset.json.
    Raises FileNotFoundError for a missing tar; ValueError for no tars, two of the same name, or no usable row at all.
    """
    check_held_out(held_out)
    tars, out = [Path(tar) for tar in tars], Path(out_dir)
    if not tars:
        raise ValueError("There are no tar files to convert: give at least one.")
    if missing := [tar for tar in tars if not tar.is_file()]:
        raise FileNotFoundError(f"There is no file {missing[0]} ({len(missing)} of {len(tars)} tar files are missing).")
    if twice := [name for name, count in Counter(tar.stem for tar in tars).items() if count > 1]:
        raise ValueError(f"Two tar files are named {twice[0]}: convert them into different folders.")
    out.mkdir(parents=True, exist_ok=True)
    one = functools.partial(_convert_one, out=out, held_out=held_out, caption_key=caption_key)
    if workers > 1:
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            reports = list(pool.map(one, tars))
    else:
        reports = [one(tar) for tar in tars]
    total = {split: sum(report[split] for report in reports) for split in SPLITS}
    total["skipped"] = dict(sum((Counter(report["skipped"]) for report in reports), Counter()).most_common())
    total["shards"] = {s: [_shard(tar, s) for tar, r in zip(tars, reports, strict=True) if r[s]] for s in SPLITS}
    if not total["train"] + total["validation"]:
        raise ValueError(f"No row of the {len(tars)} tar files is usable: {total['skipped'] or 'they are empty'}.")
    write_json(out / LISTING, total)
    return total


def rows(tar: str | Path) -> Iterator[tuple[str, dict[str, bytes] | str]]:
    """The rows of a tar shard, streamed: (key, {extension: bytes}), or (key, reason) for what cannot be read."""
    key, parts = None, {}
    try:
        with tarfile.open(tar, "r|") as members:  # plain, not compressed: what is read is no larger than the file
            for member in members:
                place, _, file = member.name.encode("utf-8", "replace").decode().rpartition("/")
                stem, _, extension = file.partition(".")
                if not member.isreg() or not stem:
                    continue
                name = f"{place}/{stem}" if place else stem
                if name != key:
                    if key is not None:
                        yield key, parts
                    key, parts = name, {}
                if member.size > MAX_BYTES:
                    parts["too large"] = b""
                elif extension.lower() in (*PICTURES, "txt", "json"):
                    parts[extension.lower()] = members.extractfile(member).read()
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        yield "", f"tar broken from here on ({type(error).__name__})"
    if key is not None:
        yield key, parts


def _convert_one(tar: Path, out: Path, held_out: float, caption_key: str) -> dict:
    source = {"bytes": tar.stat().st_size, "held_out": held_out, "caption_key": caption_key}
    if report := _finished(out, tar, source):
        return report
    counts, skipped, writers = Counter(), Counter(), {}
    for key, row in rows(tar):
        example = row if isinstance(row, str) else _usable(row, caption_key)
        if isinstance(example, str):
            skipped[example] += 1
            continue
        split = split_of(f"{tar.stem}/{key}", held_out)
        if split not in writers:
            part = str(out / f"{_shard(tar, split)}.part")
            writers[split] = array_record_module.ArrayRecordWriter(part, "group_size:1")
        header = {"id": f"{tar.stem}/{key}", "captions": example[0]}
        writers[split].write(json.dumps(header).encode("ascii") + b"\n" + example[1])
        counts[split] += 1
    for split, writer in writers.items():
        writer.close()
        os.replace(out / f"{_shard(tar, split)}.part", out / _shard(tar, split))
    report = {**{split: counts[split] for split in SPLITS}, "skipped": dict(skipped), "source": source}
    write_json(out / f"{tar.stem}.counts.json", report)
    return report


def _finished(out: Path, tar: Path, source: dict) -> dict | None:
    """The report of an earlier conversion of the same tar, if all that it wrote is there."""
    try:
        report = json.loads((out / f"{tar.stem}.counts.json").read_text("utf-8"))
        there = all((out / _shard(tar, split)).is_file() for split in SPLITS if report[split])
        return report if there and report["source"] == source else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _usable(row: dict[str, bytes], caption_key: str) -> tuple[tuple[str, ...], bytes] | str:
    """The captions and the picture of a row, or the reason why it cannot be used."""
    picture = next((row[extension] for extension in PICTURES if extension in row), None)
    if picture is None:
        return "picture too large" if "too large" in row else "no picture"
    try:
        text = row.get("txt", b"").decode("utf-8")
        captions = clean(text if text.strip() else json.loads(row.get("json", b"{}")).get(caption_key))
    except UnicodeDecodeError:
        return "caption not UTF-8"
    except (ValueError, RecursionError, AttributeError):
        return "json broken"
    if not captions:
        return "no caption"
    try:
        decode(picture)
    except ValueError:
        return "picture broken"
    return captions, picture


def _captions(records: ArrayRecordDataSource, files: list, index: int) -> tuple[str, ...]:
    with reading(files, index):
        return tuple(json.loads(records[index].partition(b"\n")[0])["captions"])


def _read(records: ArrayRecordDataSource, files: list, index: int) -> Example:
    with reading(files, index):
        header, _, picture = records[index].partition(b"\n")
        about = json.loads(header)
        return {"image": decode(picture), "captions": tuple(about["captions"]), "id": about["id"]}


def _shard(tar: Path, split: str) -> str:
    return f"{tar.stem}.{split}.array_record"


def _one_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
