"""CLIP's published vocabulary: transformers' tokenizer, saved, and ours from that folder.

The vocabulary comes out of the wheel of open_clip_torch, which is fetched once and checked by digest; none of its code
is run, and it is not installed, since that would bring torchvision and timm.
"""

import gzip
from pathlib import Path

import numpy as np
import pytest
from transformers import CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from diffusion_jax.data import archives, tokenizers

pytestmark = pytest.mark.reference

WHEEL = archives.Archive(
    "open_clip_torch",
    "3.3.0",
    "wCW/mi1bsJNCTrLHiz63H5+HaS+jVJKH+8VUl2wR/biHQqxrR2+398oIVHx47Eiy4si/3HOjQ8VN8PPNMhv95A==",
    client="pip",
)
START, END, BANG = 49406, 49407, 0
CAPTIONS = {
    "": [],
    "a photo of a cat": [320, 1125, 539, 320, 2368],
    "A  Photo\n of a CAT ": [320, 1125, 539, 320, 2368],
    "it's 1234, isn't it?": None,
    "naïve café, größer, 写真, фото": None,
    "a red heart ❤️ and 👩‍🚀🏳️‍🌈": None,
    "one two three " * 30: None,
}


@pytest.fixture(scope="module", params=["<|endoftext|>", "!"])
def reference(request, tmp_path_factory):
    """transformers' tokenizer with the padding of Stable Diffusion 1 or 2, and the folder where it saved itself."""
    wheel = archives.fetch(WHEEL, Path(request.config.cache.mkdir("archives")))
    ((_, content),) = archives.members(wheel, "open_clip/bpe_simple_vocab_16e6.txt.gz".__eq__)
    # The published file goes on with merges that no published model has learned.
    merges = [tuple(line.split()) for line in gzip.decompress(content).decode().split("\n")[1 : END - 512]]
    letters = list(bytes_to_unicode().values())
    words = [*letters, *(letter + "</w>" for letter in letters), *map("".join, merges)]
    vocab = {word: index for index, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    assert len(vocab) == END + 1
    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges, pad_token=request.param, model_max_length=77)
    folder = tmp_path_factory.mktemp("clip")
    tokenizer.save_pretrained(folder)
    return tokenizer, folder


@pytest.mark.parametrize("length", [3, 20, 77])
def test_tokens_and_mask_are_transformers(reference, length):
    tokenizer, folder = reference
    tokens, mask = tokenizers.pretrained(folder, length)(list(CAPTIONS))
    expected = tokenizer(list(CAPTIONS), padding="max_length", truncation=True, max_length=length)
    np.testing.assert_array_equal(tokens, expected["input_ids"])
    np.testing.assert_array_equal(mask, expected["attention_mask"])


@pytest.mark.parametrize("caption", [caption for caption, ids in CAPTIONS.items() if ids is not None])
def test_known_captions_begin_and_end_and_are_padded_as_the_folder_says(reference, caption):
    tokenizer, folder = reference
    padding = {"!": BANG, "<|endoftext|>": END}[tokenizer.pad_token]
    wanted = [START, *CAPTIONS[caption], END]
    tokens, mask = tokenizers.pretrained(folder, 77)([caption])
    assert tokens[0].tolist() == wanted + [padding] * (77 - len(wanted))
    assert mask[0].tolist() == [True] * len(wanted) + [False] * (77 - len(wanted))
    assert tokenizers.pretrained(folder, 77, pad_is_text=True)([caption])[1].all()


def test_where_an_exclamation_mark_pads_one_in_the_text_is_still_text(reference):
    tokenizer, folder = reference
    tokens, mask = tokenizers.pretrained(folder, 6)(["a cat!"])
    padding = BANG if tokenizer.pad_token == "!" else END
    assert tokens[0].tolist() == [START, 320, 2368, 256, END, padding]
    assert mask[0].tolist() == [True] * 5 + [False]


def test_a_long_caption_is_cut_and_keeps_its_end(reference):
    _, folder = reference
    tokenize = tokenizers.pretrained(folder, 77)
    tokens, mask = tokenize(list(CAPTIONS))
    assert tokens[-1].tolist().index(END) == 76
    assert mask[-1].all()
    assert (tokens[:, 0] == START).all()
    assert tokenizers.truncated(list(CAPTIONS), tokenize) == 1
