"""What goes into a cache of embeddings: which captions, by which encoder, and what makes two encoders different."""

import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from ml_collections import ConfigDict

from diffusion_jax import embed, text
from diffusion_jax.data import embedding_builder, embeddings, tokenizers
from diffusion_jax.data.examples import Indexed
from diffusion_jax.interop.huggingface import TextEncoder, load_text_encoder, save_text_encoder
from diffusion_jax.models.t5 import T5Encoder

T5 = dict(vocab=384, dim=16, d_kv=4, d_ff=24, heads=2, layers=2)
CAPTIONS = ["a red heart", "", "face, noto style", "ein Käfer 🙂", "x" * 80]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A text encoder of random weights, as transformers lays it out, padded on the right."""
    path = tmp_path_factory.mktemp("encoder") / "t5"
    module, tokenizer = T5Encoder(**T5), tokenizers.byt5(24)
    params = jax.jit(module.init)(jax.random.key(0), *tokenizer([""]))["params"]
    save_text_encoder(path, TextEncoder(module, params, tokenizer))
    return path


@pytest.fixture(scope="module")
def left(folder, tmp_path_factory):
    """The same, padded on the left."""
    path = tmp_path_factory.mktemp("encoder") / "left"
    path.mkdir()
    for file in folder.iterdir():
        (path / file.name).write_bytes(file.read_bytes())
    told = json.loads((path / "tokenizer_config.json").read_text())
    (path / "tokenizer_config.json").write_text(json.dumps(told | {"padding_side": "left"}))
    return path


@pytest.mark.parametrize("pad_is_text", [False, True])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_cache_gives_what_the_encoder_gives_bit_for_bit(folder, left, tmp_path, side, pad_is_text, dtype):
    name = {"right": folder, "left": left}[side]
    tokenize = tokenizers.pretrained(name, 24, pad_is_text)
    encoder, identity = (
        load_text_encoder(name, dtype)._replace(tokenizer=tokenize),
        text.identity(tokenize, name, dtype),
    )
    embedding_builder.build(tmp_path, CAPTIONS, embed.embedder(encoder), identity, batch_size=len(CAPTIONS))
    values, mask = embeddings.open_cache(tmp_path, identity).rows(CAPTIONS)
    tokens, direct_mask = encoder.tokenizer(CAPTIONS)
    direct = jax.jit(encoder.module.apply)({"params": encoder.params}, jnp.asarray(tokens), jnp.asarray(direct_mask))
    np.testing.assert_array_equal(mask, direct_mask)
    assert mask.all(axis=1).tolist() == [pad_is_text] * 4 + [True]
    assert pad_is_text or bool(mask[1, 0]) == (side == "right")
    assert values.tobytes() == np.asarray(direct).astype(ml_dtypes.bfloat16).tobytes()


def test_what_makes_another_identity(folder, left, tmp_path):
    def changed(folder=folder, dtype="float32", **keywords):
        return text.identity(tokenizers.pretrained(folder, **(dict(max_length=24) | keywords)), folder, dtype)

    plain = changed()
    assert plain == changed()
    assert (plain.max_length, plain.pad_is_text, plain.dtype, plain.dim) == (24, False, "bfloat16", 16)
    assert changed(max_length=12) == plain._replace(max_length=12)
    assert changed(pad_is_text=True) == plain._replace(pad_is_text=True)
    for other, field in [(changed(folder=left), "tokenizer"), (changed(dtype="bfloat16"), "encoder")]:
        assert [name for name in plain._fields if getattr(plain, name) != getattr(other, name)] == [field]


def example(index):
    return {"captions": (f"main {index}", f"other {index}"), "image": None, "id": ""}


@pytest.mark.parametrize(
    ("loader", "per_example"),
    [({}, 2), ({"main_caption": 0.0}, 2), ({"main_caption": 1.0}, 1), ({"main_caption": 1}, 1)],
)
@pytest.mark.parametrize("source", [Indexed(3, example), [example(i) for i in range(3)]])
def test_all_captions_that_may_be_drawn_are_read(source, loader, per_example):
    guidance = dict(name="composed", guided=dict(name="composed", others=("a dog", "a cat")))
    config = ConfigDict(dict(loader=loader, sampling=dict(prompts=("a heart",), nfe=3, guidance=guidance)))
    ticks = []
    found = list(embed.captions(config, [source, source], lambda: ticks.append(1)))
    drawn = [caption for index in range(3) for caption in example(index)["captions"][:per_example]]
    assert sorted(found) == sorted(["a heart", "a dog", "a cat", *drawn, *drawn])
    assert len(ticks) == 6


def test_captions_are_read_without_pictures():
    source = Indexed(3, lambda index: pytest.fail("a picture was read"), lambda index: [f"caption {index}"])
    config = ConfigDict(dict(loader={}, sampling={}))
    assert list(embed.captions(config, [source])) == ["caption 0", "caption 1", "caption 2"]
