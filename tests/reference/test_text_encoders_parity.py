"""Text encoders beside transformers' torch ones, with the same random weights, which cross over in a folder."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModelForTextEncoding, ByT5Tokenizer
from transformers.models.t5.modeling_t5 import T5Attention

from diffusion_jax.interop import t5_layout
from diffusion_jax.interop.huggingface import load_text_encoder, save_text_encoder
from diffusion_jax.models.t5 import position_buckets

pytestmark = pytest.mark.reference

SMALL = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_heads": 4, "num_layers": 2}
GATED = {"feed_forward_proj": "gated-gelu"}
RELU = {"feed_forward_proj": "relu"}
WHOLE = "ForConditionalGeneration"
MODELS = {  # family and class in transformers, settings
    "T5 v1.0": ("T5", "EncoderModel", SMALL | RELU),
    "T5 v1.0 whole": ("T5", WHOLE, SMALL | RELU | {"d_ff": 128}),
    "T5 v1.1": ("T5", "EncoderModel", SMALL | GATED),
    "Flan-T5 whole": ("T5", WHOLE, SMALL | GATED | {"num_decoder_layers": 3}),
    "mT5": ("MT5", "EncoderModel", SMALL),
    "mT5 whole": ("MT5", WHOLE, SMALL),
    "umT5": ("UMT5", "EncoderModel", SMALL),
    "umT5 whole": ("UMT5", WHOLE, SMALL | {"num_layers": 3}),
    "ByT5": ("T5", WHOLE, SMALL | GATED | {"d_model": 24, "num_heads": 6, "num_layers": 3, "num_decoder_layers": 1}),
    "wide heads": ("T5", "EncoderModel", SMALL | GATED | {"d_model": 24, "d_kv": 16, "num_heads": 3}),
    "narrow heads": ("UMT5", "EncoderModel", SMALL | RELU | {"d_model": 48, "d_kv": 4, "num_heads": 5}),
    "one head, one layer": ("T5", "EncoderModel", SMALL | GATED | {"num_heads": 1, "num_layers": 1}),
    "deep": ("T5", "EncoderModel", SMALL | GATED | {"d_model": 64, "num_layers": 12}),
    "other buckets": (
        "UMT5",
        "EncoderModel",
        SMALL | {"relative_attention_num_buckets": 16, "relative_attention_max_distance": 40},
    ),
}
LENGTHS = [1, 2, 7, 31, 64, 77, 129, 512, 513]
CASES = [(name, length) for name in ("T5 v1.0", "Flan-T5 whole", "umT5") for length in LENGTHS]
CASES += [(name, length) for name in MODELS for length in (7, 77) if (name, length) not in CASES]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """name -> (torch's encoder, the folder that it was saved to, ours from there), made once."""
    made = {}

    def pair(name):
        if name not in made:
            reference, folder = _saved(tmp_path_factory.mktemp("model"), *MODELS[name])
            made[name] = reference, folder, load_text_encoder(folder)
        return made[name]

    return pair


def _saved(folder, family, kind, settings):
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(vocab_size=384, **settings)
    model = getattr(transformers, family + kind)(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "layer_norm" in name:
                weight.uniform_(0.5, 1.5)  # all ones would hide a misplaced scale
            if "relative_attention_bias" in name:
                weight.normal_(std=1.0)  # as large as trained ones, so that a wrong bucket shows
    # Published files of whole models hold the embedding under several names, and a head that is not tied to it.
    untied = {f"{part}.embed_tokens.weight": model.shared.weight.clone() for part in ("encoder", "decoder")}
    untied["lm_head.weight"] = torch.randn(384, config.d_model)
    model.save_pretrained(folder, state_dict=model.state_dict() | (untied if kind == WHOLE else {}))
    ByT5Tokenizer().save_pretrained(folder)
    return model.get_encoder() if kind == WHOLE else model, folder


def masks(length):
    """Full, right-padded, left-padded, a hole in the middle, one token, none."""
    at, half = np.arange(length), (length + 1) // 2
    return np.stack([at >= 0, at < half, at >= length - half, abs(at - half) > 0, at == 0, at < 0])


def drawn(length, rows=6):
    mask = masks(length)[:rows]
    return np.random.default_rng(length).integers(0, 384, mask.shape).astype(np.int32), mask


def answer(reference, tokens, mask):
    inputs = {"input_ids": torch.tensor(tokens).long(), "attention_mask": torch.tensor(mask)}
    with torch.no_grad():
        return reference(**inputs).last_hidden_state.float().numpy()


@pytest.mark.parametrize(("name", "length"), CASES)
def test_outputs_agree_in_float32(pair, name, length):
    reference, _, (module, params, _) = pair(name)
    tokens, mask = drawn(length)
    expected = answer(reference, tokens, mask)
    found = np.asarray(jax.jit(module.apply)({"params": params}, tokens, mask))
    assert (found[~mask] == 0).all()
    error = np.abs(found - expected)[mask].max() / np.abs(expected[mask]).max()
    print(f"{name}, length {length}: max relative error {error:.1e}")
    assert error <= 1e-5


@pytest.mark.parametrize("name", ["T5 v1.0", "T5 v1.1", "umT5"])
def test_gradients_agree_in_float32(pair, name):
    reference, _, (module, params, _) = pair(name)
    tokens, mask = drawn(19, rows=5)
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((*mask.shape, module.dim)).astype(np.float32) * mask[:, :, None]
    reference.zero_grad()
    out = reference(torch.tensor(tokens).long(), attention_mask=torch.tensor(mask)).last_hidden_state
    (out * torch.tensor(weight)).sum().backward()
    expected = {name: value.grad.numpy() for name, value in reference.named_parameters()}

    def loss(params, tokens, mask):
        return (module.apply({"params": params}, tokens, mask) * weight).sum()

    for path, found in jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(params, tokens, mask)):
        grad = expected[t5_layout.tensor("/".join(key.key for key in path))[0]]
        grad = grad.T if path[-1].key == "kernel" else grad
        error = np.abs(found - grad).max() / np.abs(grad).max()
        print(f"{name}{jax.tree_util.keystr(path)}: max relative error {error:.1e}")
        assert error <= 1e-5, path


def assert_no_worse(name, ours, theirs, exact, mask):
    """That of two answers in bfloat16 ours is as near to the one in float32 as torch's, or nearer."""
    errors = [np.linalg.norm((found - exact)[mask]) / np.linalg.norm(exact[mask]) for found in (ours, theirs)]
    print(f"{name}: bfloat16 relative error: ours {errors[0]:.1e}, torch {errors[1]:.1e}")
    assert errors[0] <= errors[1]


@pytest.mark.parametrize("name", ["T5 v1.0 whole", "deep", "umT5"])
def test_half_precision_is_no_worse_than_torchs(pair, name):
    """bfloat16 against float32: ours keeps norms, logits and the sum over layers in float32."""
    reference, folder, _ = pair(name)
    module, params, _ = load_text_encoder(folder, jnp.bfloat16)
    tokens, mask = drawn(33, rows=5)
    exact = answer(reference, tokens, mask)
    family, _, _ = MODELS[name]
    half = getattr(transformers, f"{family}EncoderModel").from_pretrained(folder, dtype=torch.bfloat16)
    theirs = answer(half, tokens, mask)
    ours = np.asarray(jax.jit(module.apply)({"params": params}, tokens, mask))
    assert_no_worse(name, ours, theirs, exact, mask)


@pytest.mark.parametrize("name", MODELS)
def test_transformers_reads_what_was_saved(pair, tmp_path, name):
    reference, _, ours = pair(name)
    save_text_encoder(tmp_path, ours)
    again, told = AutoModelForTextEncoding.from_pretrained(tmp_path, output_loading_info=True)
    assert {key: list(value) for key, value in told.items() if value} == {}  # missing, unexpected, mismatched
    inputs = drawn(31)
    np.testing.assert_array_equal(answer(again.eval(), *inputs), answer(reference, *inputs))


@pytest.mark.parametrize("max_length", [2, 16, 64])
def test_tokens_of_bytes_agree(pair, max_length):
    captions = ["", "a red heart", "Ein Käfer, 苹果, яблоко 🙂", " two  spaces\n", "x" * 200, "\0 <b> </b>"]
    _, folder, _ = pair("ByT5")
    tokens, mask = load_text_encoder(folder, max_length=max_length).tokenizer(captions)
    plain = partial(ByT5Tokenizer(), padding="max_length", truncation=True, max_length=max_length)
    np.testing.assert_array_equal(tokens, plain(captions)["input_ids"])
    np.testing.assert_array_equal(mask, plain(captions)["attention_mask"])


@pytest.mark.parametrize(("buckets", "max_distance"), [(32, 128), (32, 256), (16, 64), (8, 20), (12, 50), (64, 512)])
def test_buckets_agree(buckets, max_distance):
    length = 2 * max_distance + 5
    offsets = torch.arange(length)[None, :] - torch.arange(length)[:, None]
    expected = T5Attention._relative_position_bucket(offsets, True, buckets, max_distance)
    np.testing.assert_array_equal(position_buckets(length, buckets, max_distance), expected.numpy())
