"""A config's captions through its pretrained text encoder, once: what `diffusion-jax data embed` does."""

import dataclasses
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree
from ml_collections import ConfigDict
from tqdm import tqdm

from diffusion_jax import build
from diffusion_jax.data import embedding_builder, embeddings, examples, tokenizers
from diffusion_jax.interop.huggingface import TextEncoder, load_text_encoder
from diffusion_jax.training import parallel


def embed(
    config: ConfigDict, data_dir: str, out: str | None, batch_size: int, shard_index: int = 0, shard_count: int = 1
) -> embeddings.Embeddings:
    """Embeds what a training by the config may read and is not embedded yet; prints what it took.

    out: the folder of all caches, embeddings in data_dir unless given. shard_index, shard_count: this machine's share.
    Raises ValueError for a text encoder that is no pretrained one, and what reading data and encoder raise.
    """
    embedding_builder.check_work(batch_size, shard_index, shard_count)
    encoder = _encoder(config)
    sources = [build.source(config, split, data_dir) for split in ("train", "validation")]
    wanted, root = identity(encoder), Path(out or Path(data_dir) / "embeddings")
    with tqdm(total=sum(map(len, sources)), desc="embedding", unit=" pictures", dynamic_ncols=True) as bar:
        start = time.perf_counter()
        count = embedding_builder.build(
            root,
            captions(config, sources, bar.update),
            embedder(encoder),
            wanted,
            batch_size=batch_size,
            shard_index=shard_index,
            shard_count=shard_count,
            truncated=lambda caption: tokenizers.truncated([caption], encoder.tokenizer) > 0,
            progress=lambda total: bar.set_postfix_str(f"{total:,} captions"),
            about={"text_encoder": config.text_encoder.to_dict()},
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


def identity(encoder: TextEncoder, dtype: str = "bfloat16") -> embeddings.Identity:
    """What the embeddings of an encoder depend on; dtype is what they are stored in, "bfloat16" or "float32"."""
    told = encoder.tokenizer.keywords
    shape = jax.eval_shape(encoder.module.apply, {"params": encoder.params}, *encoder.tokenizer([""])).shape
    return embeddings.Identity(
        encoder=digest(encoder.module, encoder.params),
        tokenizer=tokenizers.digest(encoder.tokenizer),
        max_length=told["max_length"],
        pad_is_text=told.get("pad_is_text", False),
        dtype=dtype,
        dim=shape[-1],
    )


def digest(module: nn.Module, params: PyTree) -> str:
    """SHA-256 of a module's class, the settings that are not its defaults, and its parameters.

    Of a parameter its path, dtype, shape and bytes count, on devices or not. Each must be whole on this process.
    """
    fields = [field for field in dataclasses.fields(module) if field.name not in ("parent", "name")]
    settings = {field.name: _plain(field.name, getattr(module, field.name)) for field in fields}
    defaults = {field.name: _plain(field.name, field.default) for field in fields}
    changed = {name: value for name, value in settings.items() if value != defaults[name]}
    told = hashlib.sha256(f"{type(module).__name__} {json.dumps(changed, sort_keys=True)}".encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        told.update(f"\n{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}\n".encode())
        told.update(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8))
    return told.hexdigest()


def embedder(encoder: TextEncoder) -> Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]]:
    """captions -> (text_emb float32 (n, length, dim), mask), on all devices of this process."""
    mesh = Mesh(np.array(jax.local_devices()), ("data",))
    params = parallel.replicate(encoder.params, mesh)
    compiled = parallel.spread(lambda p, *text: encoder.module.apply({"params": p}, *text), mesh, split={1, 2})

    def embed(captions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        spare = parallel.rounded_up(len(captions), mesh) - len(captions)
        tokens, mask = encoder.tokenizer([*captions, *[""] * spare])
        return np.asarray(compiled(params, tokens, mask))[: len(captions)], mask[: len(captions)]

    return embed


def pretrained(folder: str, max_length: int = 64, dtype: str = "float32", pad_is_text: bool = False) -> TextEncoder:
    """The config entry of a text encoder that is not trained: see `load_text_encoder` and `tokenizers.pretrained`."""
    encoder = load_text_encoder(folder, dtype, max_length=max_length)
    if not pad_is_text:
        return encoder
    tokenizer = tokenizers.pretrained(encoder.tokenizer.keywords["folder"], max_length, pad_is_text)
    return encoder._replace(tokenizer=tokenizer)


def _encoder(config: ConfigDict) -> TextEncoder:
    name = config.text_encoder.get("name")
    if name != "pretrained":
        raise ValueError(
            f"config.text_encoder: {name} learns while the denoiser does, so its embeddings cannot be kept: "
            'only those of dict(name="pretrained", folder=..., max_length=...) can'
        )
    return build.named_part(config, "text_encoder", sys.modules[__name__])()


def _prompts(sampling: Mapping[str, Any] | ConfigDict) -> Iterator[str]:
    """The captions of a config's `sampling`: its prompts, and the `others` of its guidance."""
    for name, value in sampling.items():
        if isinstance(value, Mapping | ConfigDict):
            yield from _prompts(value)
        elif name in ("prompts", "others"):
            yield from value


def _plain(name: str, value: Any) -> Any:
    return np.dtype(value).name if name == "dtype" else value
