"""The BERT encoder beside transformers' torch BertModel, in folders that one saves and the other loads."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import BertConfig, BertForPreTraining, BertModel, BertTokenizer

from diffusion_jax.interop import bert_layout
from diffusion_jax.interop.huggingface import load_text_encoder, save_text_encoder

pytestmark = pytest.mark.reference

VOCAB = 97
CONFIGS = {
    "usual": {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2},
    "MiniLM's proportions": {"hidden_size": 48, "intermediate_size": 192, "num_attention_heads": 12}
    | {"num_hidden_layers": 6},
    "one head, one layer": {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 1}
    | {"num_hidden_layers": 1},
    "deep": {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_hidden_layers": 12},
    "an odd width": {"hidden_size": 21, "intermediate_size": 17, "num_attention_heads": 3, "num_hidden_layers": 3},
}
CONFIGS |= {
    name: CONFIGS["usual"] | change
    for name, change in {
        "GELU by tanh": {"hidden_act": "gelu_new"},
        "GELU by tanh, PyTorch's": {"hidden_act": "gelu_pytorch_tanh"},
        "ReLU": {"hidden_act": "relu"},
        "SiLU": {"hidden_act": "silu"},
        "large epsilon": {"layer_norm_eps": 0.1},
        "one type": {"type_vocab_size": 1},
        "five types": {"type_vocab_size": 5},
        "few positions": {"max_position_embeddings": 77},
    }.items()
}
CASES = [("usual", length) for length in [1, 2, 3, 7, 16, 31, 64, 128, 200, 511, 512]]
CASES += [("MiniLM's proportions", length) for length in [1, 5, 77, 256]]
CASES += [(name, length) for name in list(CONFIGS)[2:] for length in [5, 77]]


def reference_model(seed, model=BertModel, **config):
    """With weights as of a trained one.

    Initial ones would hide a misplaced norm, bias or mask. Were they merely larger, all tokens would be alike after
    some layers, and attention would have nothing to tell apart: so queries and keys are large, what is added small.
    """
    torch.manual_seed(seed)
    options = {"add_pooling_layer": False} if model is BertModel else {}
    reference = model(BertConfig(vocab_size=VOCAB, **config), **options).eval()
    with torch.no_grad():
        for name, weight in reference.named_parameters():
            if name.endswith("bias"):
                weight.normal_(std=0.1)
            elif "LayerNorm" in name:
                weight.uniform_(0.5, 1.5)
            elif "encoder" in name:
                scale = 2.0 if "query" in name or "key" in name else 0.3 if "output" in name else 1.0
                weight.normal_(std=scale * weight.shape[1] ** -0.5)
    return reference


@pytest.fixture
def saved(tmp_path):
    """A model -> the folder where it and a tokenizer are saved."""

    def save(reference):
        (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]))
        BertTokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path)
        reference.save_pretrained(tmp_path)
        return tmp_path

    return save


def texts(length: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and a mask: full, right-padded, left-padded, a hole in the middle, one token, none."""
    at, half = np.arange(length), (length + 1) // 2
    mask = np.stack([at >= 0, at < half, at >= length - half, abs(at - half) > 0, at == 0, at < 0])
    # Without token 0, for which torch keeps the gradient at zero.
    return np.random.default_rng(seed).integers(1, VOCAB, mask.shape).astype(np.int32), mask


def by_torch(reference, tokens, mask):
    return reference(torch.tensor(tokens).long(), attention_mask=torch.tensor(mask)).last_hidden_state


def by_us(encoder, tokens, mask):
    return np.asarray(jax.jit(encoder.module.apply)({"params": encoder.params}, tokens, mask))


def error_of(found, expected) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize(("name", "length"), CASES)
def test_outputs_agree_in_float32(name, length, saved):
    reference = reference_model(length, **CONFIGS[name])
    tokens, mask = texts(length, seed=length)
    with torch.no_grad():
        expected = by_torch(reference, tokens, mask).numpy()
    found = by_us(load_text_encoder(saved(reference)), tokens, mask)
    assert (found[~mask] == 0).all()
    error = error_of(found[mask], expected[mask])
    print(f"{name}, length {length}: max relative error {error:.1e}")
    assert error <= 1e-5


@pytest.mark.parametrize("name", ["usual", "MiniLM's proportions", "GELU by tanh"])
def test_gradients_agree_in_float32(name, saved):
    """Those of queries and keys are small differences of what comes through the values, and are held to theirs."""
    reference = reference_model(0, **CONFIGS[name])
    encoder = load_text_encoder(saved(reference))
    tokens, mask = (rows[:5] for rows in texts(19))
    jax_tokens, jax_mask = jnp.asarray(tokens), jnp.asarray(mask)
    shape = (*mask.shape, encoder.module.dim)
    weight = np.random.default_rng(0).standard_normal(shape).astype(np.float32) * mask[:, :, None]
    (by_torch(reference, tokens, mask) * torch.tensor(weight)).sum().backward()
    expected = {name: value.grad.numpy() for name, value in reference.named_parameters()}

    def loss(params):
        return (encoder.module.apply({"params": params}, jax_tokens, jax_mask) * weight).sum()

    worst = 0.0
    for keys, found in jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(encoder.params)):
        path = "/".join(key.key for key in keys)
        wanted, found = expected[bert_layout.tensor(path)[0]], found.T if path.endswith("/kernel") else found
        scale = expected[bert_layout.tensor(re.sub("(query|key)/.*", "value/kernel", path))[0]]
        error = float(np.abs(found - wanted).max() / np.abs(scale).max())
        worst = max(worst, error)
        assert error <= 1e-5, path
    print(f"{name}: max relative error of a gradient {worst:.1e}")


@pytest.mark.parametrize("length", [33, 200])
def test_half_precision_is_no_worse_than_torchs(length, saved):
    """bfloat16 against float32, over several models: a single one may be lucky with its roundings."""
    squares = np.zeros(2)
    for seed in range(4):
        reference = reference_model(seed, **CONFIGS["deep"])
        half = load_text_encoder(saved(reference), jnp.bfloat16)
        tokens, mask = (rows[:5] for rows in texts(length, seed))
        with torch.no_grad():
            exact = by_torch(reference, tokens, mask).numpy()
            theirs = by_torch(reference.bfloat16(), tokens, mask).float().numpy()
        found = by_us(half, tokens, mask), theirs
        squares += [((each - exact)[mask] ** 2).sum() / (exact[mask] ** 2).sum() for each in found]
    ours, theirs = np.sqrt(squares / 4)
    print(f"bfloat16, length {length}: relative error of ours {ours:.1e}, of torch's {theirs:.1e}")
    assert ours <= theirs


def test_the_encoder_of_a_model_with_heads(saved):
    reference = reference_model(4, BertForPreTraining, **CONFIGS["usual"])
    tokens, mask = texts(16)
    with torch.no_grad():
        expected = by_torch(reference.bert, tokens, mask).numpy()
    error = error_of(by_us(load_text_encoder(saved(reference)), tokens, mask)[mask], expected[mask])
    print(f"below BertForPreTraining: max relative error {error:.1e}")
    assert error <= 1e-5


@pytest.mark.parametrize("name", CONFIGS)
def test_what_we_save_transformers_loads(name, saved, tmp_path):
    reference = reference_model(5, **CONFIGS[name])
    folder, ours = saved(reference), tmp_path / "ours"
    save_text_encoder(ours, load_text_encoder(folder))
    written, original = (load_file(place / "model.safetensors") for place in (ours, folder))
    assert written.keys() == original.keys()
    assert all((written[name] == original[name]).all() for name in original)
    tokens, mask = texts(9)
    again = BertModel.from_pretrained(ours, add_pooling_layer=False).eval()
    with torch.no_grad():
        found, expected = (by_torch(model, tokens, mask).numpy()[mask] for model in (again, reference))
    np.testing.assert_array_equal(found, expected)
