"""A config's captions through its pretrained text encoder, once: what `diffusion-jax data embed` does."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from diffusion_jax import build, text
from diffusion_jax.data import embedding_builder, embeddings, examples, tokenizers
from diffusion_jax.interop.huggingface import TextEncoder, load_text_encoder
from diffusion_jax.training import parallel


def embed(
    config: ConfigDict, data_dir: str, out: str | None, batch_size: int, shard_index: int = 0, shard_count: int = 1
) -> list[embeddings.Embeddings]:
    """Embeds what a training by the config may read and is not embedded yet, by each of its encoders; prints the cost.

    out: the folder of all caches, embeddings in data_dir unless given. shard_index, shard_count: this machine's share.
    Raises ValueError for a text encoder that is no pretrained one, and what reading data and encoder raise.
    """
    embedding_builder.check_work(batch_size, shard_index, shard_count)
    parts = _encoders(config)
    build.text_of(config)  # for its checks
    sources = [build.source(config, split, data_dir) for split in ("train", "validation")]
    work = dict(batch_size=batch_size, shard_index=shard_index, shard_count=shard_count)
    return [
        _embed(
            part, partial(captions, config, sources), sum(map(len, sources)), Path(out or build.caches(data_dir)), work
        )
        for part in parts
    ]


def _embed(part: ConfigDict, read: Callable, total: int, root: Path, work: dict[str, int]) -> embeddings.Embeddings:
    folder, dtype = part.text_encoder.folder, part.text_encoder.get("dtype", "float32")
    tokenizer = build.named_part(part, "tokenizer", tokenizers)()
    wanted = text.identity(tokenizer, folder, dtype)
    encoder = load_text_encoder(folder, dtype)._replace(tokenizer=tokenizer)
    with tqdm(total=total, desc="embedding", unit=" pictures", dynamic_ncols=True) as bar:
        start = time.perf_counter()
        count = embedding_builder.build(
            root,
            read(bar.update),
            embedder(encoder),
            wanted,
            **work,
            truncated=lambda caption: tokenizers.truncated([caption], tokenizer) > 0,
            progress=lambda count: bar.set_postfix_str(f"{count:,} captions"),
            about=part.to_dict(),
        )
        seconds = time.perf_counter() - start
    cache = embeddings.open_cache(root, wanted)
    print(
        f"embedded {count:,} captions, {count / seconds:,.1f} a second\n{cache.folder} holds {cache.count:,} of "
        f"{cache.size / cache.count:,.0f} bytes each; {cache.truncated:,} were cut to {wanted.max_length} tokens"
    )
    return cache


def captions(config: ConfigDict, sources: Sequence[examples.Source], tick: Callable = lambda: None) -> Iterator[str]:
    """Every caption that a training or a validation by the config may draw from the sources, and those it samples.

    Repeats are not left out. tick is called after each example.
    """
    yield from _prompts(config.sampling)
    first_alone = config.loader.get("main_caption", 0.5) == 1  # see `pipeline.pick`
    for source in sources:
        for index in range(len(source)):
            found = examples.captions(source, index)
            yield from found[:1] if first_alone else found
            tick()


def embedder(encoder: TextEncoder) -> Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]]:
    """captions -> (text_emb float32 (n, length, dim), mask), on all devices of this process."""
    mesh = parallel.device_mesh(devices=jax.local_devices())
    params = parallel.replicate(encoder.params, mesh)
    compiled = parallel.spread(lambda p, *text: encoder.module.apply({"params": p}, *text), mesh, split={1, 2})

    def embed(captions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        spare = parallel.rounded_up(len(captions), mesh) - len(captions)
        tokens, mask = encoder.tokenizer([*captions, *[""] * spare])
        return np.asarray(compiled(params, tokens, mask))[: len(captions)], mask[: len(captions)]

    return embed


def _encoders(config: ConfigDict) -> list[ConfigDict]:
    """The config's encoder and its tokenizer, or of each that are joined. Raises ValueError for one that is trained."""
    told = config.text_encoder
    if told.get("name") == "joined":
        return [leaf for part in build.text_parts(config) for leaf in _encoders(part)]
    if told.get("name") != "pretrained" or told.get("trained"):
        raise ValueError(
            f"config.text_encoder: {told.get('name')} learns while the denoiser does, so no embeddings can be kept: "
            "only those of dict(name='pretrained', folder=...) that is not trained can"
        )
    return [ConfigDict(dict(tokenizer=config.tokenizer, text_encoder=told))]


def _prompts(sampling: Mapping[str, Any] | ConfigDict) -> Iterator[str]:
    """The captions of a config's `sampling`: its prompts, and the `others` of its guidance."""
    for name, value in sampling.items():
        if isinstance(value, Mapping | ConfigDict):
            yield from _prompts(value)
        elif name in ("prompts", "others"):
            yield from value
