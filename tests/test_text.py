"""A tokenizer and an encoder that belong together."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax import text


class Bag(nn.Module):
    """Embeds letters; half of the numbers drop out in training."""

    @nn.compact
    def __call__(self, tokens, mask, deterministic=True):
        return nn.Dropout(0.5)(nn.Embed(256, 4)(tokens) * mask[:, :, None], deterministic=deterministic)


def letters(captions):
    rows = np.zeros((len(captions), 3), np.int32)
    for row, caption in zip(rows, captions, strict=True):
        row[: len(caption)] = [*caption.encode()][:3]
    return rows, np.arange(3) < [[max(1, len(caption))] for caption in captions]


def test_encode_is_deterministic_unless_there_is_a_key():
    words = text.jointly_trained(letters, Bag())
    params = words.init(jax.random.key(0))
    tokens = tuple(map(jnp.asarray, words.tokenize(["ab", ""])))
    plain, again = words.encode(params, *tokens), words.encode(params, *tokens)
    assert plain.text_emb.shape == (2, 3, 4)
    np.testing.assert_array_equal(plain.text_emb, again.text_emb)
    np.testing.assert_array_equal(plain.text_mask, [[True, True, False], [True, False, False]])
    dropped = [words.encode(params, *tokens, jax.random.key(seed)).text_emb for seed in (1, 2)]
    assert (np.asarray(dropped[0]) == 0).mean() > (np.asarray(plain.text_emb) == 0).mean()
    assert not np.array_equal(*dropped)
