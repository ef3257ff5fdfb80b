import pickle

import numpy as np
import pytest

from diffusion_jax.data.tokenizers import BYT5_VOCAB, byt5, truncated


@pytest.mark.parametrize(
    "caption",
    [
        "",
        "a",
        "a red apple",
        "ein Käfer, 苹果, яблоко",
        "🙂👨‍👩‍👧",
        "a</s>b <pad> <extra_id_3>",
        " two  spaces ",
        "\0\n",
    ],
)
def test_tokens_are_the_bytes_plus_three_and_the_end(caption):
    tokens, mask = byt5(80)([caption])
    expected = [byte + 3 for byte in caption.encode()] + [1]
    assert (tokens.dtype, mask.dtype, tokens.shape, mask.shape) == (np.int32, bool, (1, 80), (1, 80))
    assert tokens[0].tolist() == expected + [0] * (80 - len(expected))
    assert mask[0].tolist() == [True] * len(expected) + [False] * (80 - len(expected))
    assert tokens.max() < BYT5_VOCAB


@pytest.mark.parametrize("caption", ["x" * 10_000, "é" * 8, "abcdefgh", "abcdefg"])
def test_a_long_caption_is_cut_and_keeps_the_end(caption):
    tokens, mask = byt5(8)([caption])
    assert tokens[0].tolist() == [byte + 3 for byte in caption.encode()[:7]] + [1]
    assert mask.all()
    assert truncated([caption], byt5(8)) == (len(caption.encode()) > 7)


def test_truncated_counts_captions():
    assert truncated(["", "1234567", "12345678", "é" * 4], byt5(8)) == 2


def test_rows_come_in_the_order_of_the_captions_and_repeats_are_safe_to_change():
    tokenizer = byt5(16)
    tokens, _ = tokenizer(["one", "two", "one"])
    assert (tokens[0] == tokens[2]).all()
    assert (tokens[0] != tokens[1]).any()
    tokens[0] = 0
    assert (tokenizer(["one"])[0] == tokens[2]).all()


def test_no_captions():
    tokens, mask = byt5(5)([])
    assert tokens.shape == mask.shape == (0, 5)


def test_it_can_be_sent_to_a_worker():
    again = pickle.loads(pickle.dumps(byt5(12)))
    np.testing.assert_array_equal(again(["abc"])[0], byt5(12)(["abc"])[0])


def test_a_lone_surrogate_is_refused_with_its_place():
    with pytest.raises(ValueError, match=r"not UTF-8 at character 2: 'ab.ud800c'"):
        byt5()(["ab\ud800c"])


def test_one_string_is_no_list_of_captions():
    with pytest.raises(ValueError, match=r"pass \['a red apple'\]"):
        byt5()("a red apple")


def test_no_room_for_a_byte():
    with pytest.raises(ValueError, match="max_length is 1"):
        byt5(1)
