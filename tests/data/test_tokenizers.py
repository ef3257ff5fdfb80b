import pickle

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from diffusion_jax.data.tokenizers import BYT5_VOCAB, byt5, pretrained, save, truncated

PAD, UNK, CLS, SEP, A, RED, APPLE, S, OPEN, CLOSE, SEP_WORD = range(11)
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "red", "apple", "##s", "[", "]", "SEP"]


def word_pieces(folder, special=True, **options):
    """A folder with a small tokenizer of BERT's kind, as transformers writes it; not `special`: no token is added."""
    pieces = Tokenizer(models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    if special:
        around = [("[CLS]", CLS), ("[SEP]", SEP)]
        pieces.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=around)
    names = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    PreTrainedTokenizerFast(tokenizer_object=pieces, **names | options).save_pretrained(folder)
    return folder


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
    captions = ["", "1234567", "12345678", "é" * 4]
    assert truncated(captions, byt5(8)) == 2
    assert truncated(captions[:3], lambda each: byt5(8)(each)) == 1  # a tokenizer that is not known


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


@pytest.mark.parametrize(
    ("caption", "expected", "text"),
    [
        ("", [CLS, SEP, PAD, PAD, PAD, PAD], 2),
        ("red apples", [CLS, RED, APPLE, S, SEP, PAD], 5),
        ("blue", [CLS, UNK, SEP, PAD, PAD, PAD], 3),
        ("a a a a", [CLS, A, A, A, A, SEP], 6),
        ("a a a a apples", [CLS, A, A, A, A, SEP], 6),
        ("a [SEP]", [CLS, A, OPEN, SEP_WORD, CLOSE, SEP], 6),
        ("[PAD]", [CLS, OPEN, UNK, CLOSE, SEP, PAD], 5),
    ],
)
@pytest.mark.parametrize("side", ["right", "left"])
def test_word_pieces_are_padded_and_cut_as_their_folder_says(tmp_path, caption, expected, text, side):
    tokenizer = pretrained(word_pieces(tmp_path, padding_side=side), 6)
    turn = 0 if side == "right" else 6 - text
    tokens, mask = tokenizer([caption])
    assert (tokens.dtype, mask.dtype) == (np.int32, bool)
    assert tokens[0].tolist() == np.roll(expected, turn).tolist()
    assert mask[0].tolist() == np.roll(np.arange(6) < text, turn).tolist()
    assert truncated([caption], tokenizer) == (caption == "a a a a apples")
    looked_at = pretrained(tmp_path, 6, pad_is_text=True)([caption])
    np.testing.assert_array_equal(looked_at[0], tokens)
    assert looked_at[1].all()


@pytest.mark.parametrize(("side", "expected"), [("right", [True, False, False]), ("left", [False, False, True])])
def test_an_empty_caption_without_special_tokens_has_one_position(tmp_path, side, expected):
    tokens, mask = pretrained(word_pieces(tmp_path, special=False, padding_side=side), 3)(["", "a red apple"])
    assert tokens.tolist() == [[PAD, PAD, PAD], [A, RED, APPLE]]
    assert mask.tolist() == [expected, [True, True, True]]


@pytest.mark.parametrize("write", [lambda at: save(at, byt5(5)), lambda at: ByT5Tokenizer().save_pretrained(at)])
@pytest.mark.parametrize("caption", ["", "a red apple", "🙂🙂🙂🙂", "a</s>b <pad>", "x</s>", " two  spaces ", "\0\n"])
def test_bytes_from_a_folder_are_those_without_one(tmp_path, write, caption):
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')  # as published: its T5 has no such tokenizer
    write(tmp_path)
    found, expected = (tokenizer([caption]) for tokenizer in (pretrained(tmp_path, 13), byt5(13)))
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])
    assert truncated([caption], pretrained(tmp_path, 13)) == truncated([caption], byt5(13))


def test_a_saved_copy_is_the_same_tokenizer(tmp_path):
    first = pretrained(word_pieces(tmp_path / "a", padding_side="left"), 6)
    save(tmp_path / "b", first)
    again = pickle.loads(pickle.dumps(pretrained(tmp_path / "b", 6)))
    for found, expected in zip(again(["a red apple", "[SEP]"]), first(["a red apple", "[SEP]"]), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_folder_that_is_saved_over_is_read_anew(tmp_path):
    assert pretrained(word_pieces(tmp_path / "a"), 6)(["a"])[0].tolist() == [[CLS, A, SEP, PAD, PAD, PAD]]
    left = pretrained(word_pieces(tmp_path / "b", padding_side="left"), 6)
    save(tmp_path / "a", left)
    assert pretrained(tmp_path / "a", 6)(["a"])[0].tolist() == [[PAD, PAD, PAD, CLS, A, SEP]]


def test_rows_of_word_pieces_are_safe_to_change_and_none_are_none(tmp_path):
    tokenizer = pretrained(word_pieces(tmp_path), 6)
    for each in tokenizer(["a", "red"]):
        each[:] = 0
    tokens, mask = tokenizer(["a", "red"])
    assert tokens[:, 1].tolist() == [A, RED]
    assert mask.sum() == 6
    assert [each.shape for each in tokenizer([])] == [(0, 6), (0, 6)]


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda at: pretrained(at, 6)("a red apple"), r"pass \['a red apple'\]"),
        (lambda at: truncated("a red apple", pretrained(at, 6)), r"pass \['a red apple'\]"),
        (lambda at: pretrained(at, 6)(["ab\ud800c"]), "not UTF-8 at character 2"),
        (lambda at: pretrained(at, 2), r"max_length is 2; .* use 3 or more"),
        (lambda at: save(at / "b", lambda captions: captions), "no tokenizer of .*tokenizers"),
        (lambda at: pretrained(word_pieces(at / "b", pad_token=None)), "no padding token"),
        (lambda at: (at / "tokenizer.json").write_text("{") and pretrained(at), "cannot read its tokenizer"),
    ],
)
def test_what_no_tokenizer_of_a_folder_can_do(tmp_path, attempt, message):
    with pytest.raises(ValueError, match=message) as caught:
        attempt(word_pieces(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_tokenizer(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(FileNotFoundError, match=r"has no tokenizer: fetch its tokenizer\.json"):
        pretrained(tmp_path)
