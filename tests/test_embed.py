"""What goes into a cache of embeddings: which captions, by which encoder, and what makes two encoders different."""

import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from ml_collections import ConfigDict

from diffusion_jax import embed
from diffusion_jax.data import embedding_builder, embeddings, tokenizers
from diffusion_jax.data.examples import Indexed
from diffusion_jax.interop.huggingface import TextEncoder, save_text_encoder
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
    encoder = embed.pretrained(str({"right": folder, "left": left}[side]), 24, dtype, pad_is_text)
    identity = embed.identity(encoder)
    embedding_builder.build(tmp_path, CAPTIONS, embed.embedder(encoder), identity, batch_size=len(CAPTIONS))
    values, mask = embeddings.open_cache(tmp_path, identity).rows(CAPTIONS)
    tokens, text = encoder.tokenizer(CAPTIONS)
    direct = jax.jit(encoder.module.apply)({"params": encoder.params}, jnp.asarray(tokens), jnp.asarray(text))
    np.testing.assert_array_equal(mask, text)
    assert text.all(axis=1).tolist() == [pad_is_text] * 4 + [True]
    assert pad_is_text or bool(text[1, 0]) == (side == "right")
    assert values.tobytes() == np.asarray(direct).astype(ml_dtypes.bfloat16).tobytes()


def test_what_makes_another_identity(folder, left, tmp_path):
    def changed(**keywords):
        return embed.identity(embed.pretrained(**(dict(folder=str(folder), max_length=24) | keywords)))

    plain = changed()
    assert plain == changed()
    assert (plain.max_length, plain.pad_is_text, plain.dtype, plain.dim) == (24, False, "bfloat16", 16)
    assert changed(max_length=12) == plain._replace(max_length=12)
    assert changed(pad_is_text=True) == plain._replace(pad_is_text=True)
    for other, field in [(changed(folder=str(left)), "tokenizer"), (changed(dtype="bfloat16"), "encoder")]:
        assert [name for name in plain._fields if getattr(plain, name) != getattr(other, name)] == [field]


@pytest.mark.parametrize(
    ("module", "change"),
    [
        (
            T5Encoder(**T5),
            lambda params: params["final_norm"].update(scale=params["final_norm"]["scale"].at[3].add(1e-6)),
        ),
        (T5Encoder(**T5), lambda params: params.update(first_norm=params.pop("final_norm"))),
        (T5Encoder(**T5 | dict(heads=4, d_kv=2)), None),
        (T5Encoder(**T5, max_distance=64), None),
        (T5Encoder(**T5, dtype=jnp.bfloat16), None),
    ],
)
def test_an_encoder_is_another_by_one_number_one_name_or_one_setting(module, change):
    plain = T5Encoder(**T5)
    params = jax.jit(plain.init)(jax.random.key(0), *tokenizers.byt5(4)([""]))["params"]
    other = jax.tree.map(lambda leaf: leaf, params)
    if change:
        change(other)
    assert embed.digest(plain, params) != embed.digest(module, other)
    assert embed.digest(plain, params) == embed.digest(plain.clone(dtype="float32"), jax.tree.map(np.asarray, params))


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
