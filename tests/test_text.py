"""A tokenizer and an encoder that belong together."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax import text
from diffusion_jax.data import tokenizers
from diffusion_jax.models.dropout import Dropout
from diffusion_jax.types import Cond


class Bag(nn.Module):
    """Embeds letters; half of the numbers drop out in training."""

    dim: int = 4

    @nn.compact
    def __call__(self, tokens, mask, dropout_keys=None):
        return Dropout(0.5)(nn.Embed(256, self.dim)(tokens) * mask[:, :, None], dropout_keys)


def letters(captions, length=3):
    rows = np.zeros((len(captions), length), np.int32)
    for row, caption in zip(rows, captions, strict=True):
        row[: len(caption)] = [*caption.encode()][:length]
    return rows, np.arange(length) < [[max(1, len(caption))] for caption in captions]


def test_encode_is_deterministic_unless_there_are_keys():
    words = text.jointly_trained(letters, Bag())
    params = words.init(jax.random.key(0))
    tokens = tuple(map(jnp.asarray, words.tokenize(["ab", ""])))
    plain, again = words.encode(params, *tokens), words.encode(params, *tokens)
    assert plain.text_emb.shape == (2, 3, 4)
    np.testing.assert_array_equal(plain.text_emb, again.text_emb)
    np.testing.assert_array_equal(plain.text_mask, [[True, True, False], [True, False, False]])
    dropped = [words.encode(params, *tokens, jax.random.split(jax.random.key(seed))).text_emb for seed in (1, 2)]
    assert (np.asarray(dropped[0]) == 0).mean() > (np.asarray(plain.text_emb) == 0).mean()
    assert not np.array_equal(*dropped)


def kept(dim, length=3):
    """A text whose captions come as embeddings, bfloat16 numbers that count up."""

    def rows(captions):
        tokens, mask = letters(captions, length)
        values = tokens[..., None] + np.arange(dim)
        return np.where(mask[..., None], values, 0).astype(jnp.bfloat16), mask

    encode = lambda params, tokens, mask, dropout_keys=None: Cond(tokens.astype(jnp.float32), mask)  # noqa: E731
    cut = partial(tokenizers.truncated, tokenizer=partial(letters, length=length))
    return text.Text(rows, None, encode, cut, trained=False)


def trained(dim, length=3):
    return text.jointly_trained(partial(letters, length=length), Bag(dim))


def conds(texts, along, captions=("ab", "", "c")):
    """What the joined text makes of captions, and what each of its members does."""
    both = text.joined(texts, along)
    params = both.init(jax.random.key(0)) if both.init else {}
    alone = [
        each.encode(params.get(f"encoder_{i}"), *map(jnp.asarray, each.tokenize(captions)))
        for i, each in enumerate(texts)
    ]
    return jax.jit(both.encode)(params, *map(jnp.asarray, both.tokenize(captions))), alone


@pytest.mark.parametrize("make", [trained, kept])
def test_joined_along_length_is_one_after_the_other_and_the_narrower_ends_in_zeros(make):
    found, (first, second, third) = conds([make(4), make(6, 5), make(5, 2)], "length")
    assert found.text_emb.shape == (3, 10, 6)
    np.testing.assert_array_equal(found.text_mask, jnp.concatenate([first[1], second[1], third[1]], 1))
    np.testing.assert_array_equal(found.text_emb[:, :3, :4], first.text_emb)
    np.testing.assert_array_equal(found.text_emb[:, 3:8], second.text_emb)
    np.testing.assert_array_equal(found.text_emb[:, 8:, :5], third.text_emb)
    assert not found.text_emb[:, :3, 4:].any()
    assert not found.text_emb[:, 8:, 5:].any()


@pytest.mark.parametrize("make", [trained, kept])
def test_joined_along_features_is_side_by_side(make):
    found, (first, second) = conds([make(4), make(6)], "features")
    np.testing.assert_array_equal(found.text_emb, jnp.concatenate([first.text_emb, second.text_emb], 2))
    np.testing.assert_array_equal(found.text_mask, first.text_mask)


def test_joined_texts_may_be_joined_again():
    inner = text.joined([trained(4), trained(6)], "features")
    found, (first, second) = conds([inner, trained(12, 4)], "length")
    assert found.text_emb.shape == (3, 7, 12)
    np.testing.assert_array_equal(found.text_emb[:, :3, :10], first.text_emb)
    np.testing.assert_array_equal(found.text_emb[:, 3:], second.text_emb)


def test_joined_encoders_drop_out_each_by_itself():
    both = text.joined([trained(64), trained(64)], "features")
    params = both.init(jax.random.key(0))
    same = dict.fromkeys(params, params["encoder_0"])
    tokens = tuple(map(jnp.asarray, both.tokenize(["abc"])))
    plain, dropped = (both.encode(same, *tokens, keys).text_emb for keys in (None, jax.random.key(1)[None]))
    np.testing.assert_array_equal(plain[..., :64], plain[..., 64:])
    assert not np.array_equal(dropped[..., :64], dropped[..., 64:])


@pytest.mark.parametrize("make", [trained, kept])
def test_joined_count_what_any_cuts_short(make):
    captions = ["", "abc", "abcd", "abcdef"]
    assert make(4).truncated(captions) == 2
    assert text.joined([make(4, 5), make(4, 6)]).truncated(captions) == 1


@pytest.mark.parametrize(
    ("texts", "along", "line"),
    [
        ([trained(4)], "length", "1 text encoders along 'length': join two or more"),
        ([trained(4), trained(4)], "depth", "along 'depth': join two or more along length or features"),
        ([trained(4), kept(4)], "length", "all trained, or all as they are, or all cached"),
        ([trained(4), trained(4)._replace(trained=False)], "length", "all trained, or all as they are, or all cached"),
    ],
)
def test_what_cannot_be_joined(texts, along, line):
    with pytest.raises(ValueError, match=line):
        text.joined(texts, along)


def test_masks_that_differ_are_not_joined_along_features():
    with pytest.raises(ValueError, match="one max_length"):
        text.joined([trained(4), trained(4, 5)], "features").tokenize(["ab"])
    other = trained(4)._replace(tokenize=lambda captions: (letters(captions)[0], np.ones((len(captions), 3), bool)))
    both = text.joined([trained(4), other], "features")
    assert both.tokenize(["abc"])[1].all()
    with pytest.raises(ValueError, match="differ for 'ab'"):
        both.tokenize(["abc", "ab"])
