"""T5Gemma's encoder beside transformers' torch one, with the same random weights, which cross over in a folder."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import ByT5Tokenizer, T5GemmaConfig, T5GemmaEncoderModel, T5GemmaForConditionalGeneration
from transformers.models.t5gemma.configuration_t5gemma import T5GemmaModuleConfig

from diffusion_jax.interop import t5gemma_layout
from diffusion_jax.interop.huggingface import load_text_encoder, save_text_encoder
from tests.reference.test_text_encoders_parity import answer, assert_no_worse, drawn

pytestmark = pytest.mark.reference

SMALL = {
    "vocab_size": 384,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "query_pre_attn_scalar": 8,
}
MODELS = {
    "small": SMALL,
    "whole": SMALL,
    "short window": SMALL | {"sliding_window": 3, "num_hidden_layers": 3},
    "a key for each head": SMALL | {"num_key_value_heads": 4},
    "one key for all": SMALL | {"num_key_value_heads": 1, "head_dim": 16},
    "low cap": SMALL | {"attn_logit_softcapping": 2.0},
    "no cap": SMALL | {"attn_logit_softcapping": None},
    "other turning": SMALL | {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}},
    "deep": SMALL | {"num_hidden_layers": 12},
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """name -> (torch's encoder, the folder that it was saved to), made once."""
    made = {}

    def pair(name):
        if name not in made:
            torch.manual_seed(0)
            half, whole = T5GemmaModuleConfig(**MODELS[name]).to_dict(), name == "whole"
            config = T5GemmaConfig(encoder=half, decoder=half, is_encoder_decoder=whole, vocab_size=384)
            model = (T5GemmaForConditionalGeneration if whole else T5GemmaEncoderModel)(config).eval()
            with torch.no_grad():
                for path, weight in model.named_parameters():
                    if "norm" in path:
                        weight.uniform_(-0.5, 0.5)  # all zeros would hide a misplaced scale
                    else:  # queries and keys so large that attention tells tokens apart
                        weight.normal_(
                            std=(1.2 if "q_proj" in path or "k_proj" in path else 1.0) * weight.shape[1] ** -0.5
                        )
            folder = tmp_path_factory.mktemp("model")
            model.save_pretrained(folder)
            ByT5Tokenizer().save_pretrained(folder)
            made[name] = model.model.encoder if whole else model.encoder, folder
        return made[name]

    return pair


@pytest.mark.parametrize("length", [1, 7, 64, 129])
@pytest.mark.parametrize("name", MODELS)
def test_outputs_agree_in_float32(pair, name, length):
    reference, folder = pair(name)
    module, params, _ = load_text_encoder(folder)
    tokens, mask = drawn(length)
    expected = answer(reference, tokens, mask)
    found = np.asarray(jax.jit(module.apply)({"params": params}, tokens, mask))
    assert (found[~mask] == 0).all()
    error = np.abs(found - expected)[mask].max() / np.abs(expected[mask]).max()
    print(f"{name}, length {length}: max relative error {error:.1e}")
    assert error <= 1e-5


@pytest.mark.parametrize("name", ["short window", "low cap"])
def test_gradients_agree_in_float32(pair, name):
    reference, folder = pair(name)
    module, params, _ = load_text_encoder(folder)
    tokens, mask = drawn(19, rows=5)
    weight = np.random.default_rng(0).standard_normal((*mask.shape, module.dim)).astype(np.float32) * mask[:, :, None]
    reference.zero_grad()
    out = reference(input_ids=torch.tensor(tokens).long(), attention_mask=torch.tensor(mask)).last_hidden_state
    (out * torch.tensor(weight)).sum().backward()
    expected = {f"encoder.{path}": value.grad.numpy() for path, value in reference.named_parameters()}

    def loss(params):
        return (module.apply({"params": params}, jnp.asarray(tokens), jnp.asarray(mask)) * weight).sum()

    for path, found in jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(params)):
        grad = expected[t5gemma_layout.tensor("/".join(key.key for key in path))[0]]
        grad = grad.T if path[-1].key == "kernel" else grad
        error = np.abs(found - grad).max() / np.abs(grad).max()
        print(f"{name}{jax.tree_util.keystr(path)}: max relative error {error:.1e}")
        assert error <= 1e-5, path


def test_half_precision_is_no_worse_than_torchs(pair):
    reference, folder = pair("deep")
    module, params, _ = load_text_encoder(folder, jnp.bfloat16)
    tokens, mask = drawn(33, rows=5)
    exact = answer(reference, tokens, mask)
    theirs = answer(T5GemmaEncoderModel.from_pretrained(folder, dtype=torch.bfloat16).encoder, tokens, mask)
    ours = np.asarray(jax.jit(module.apply)({"params": params}, tokens, mask))
    assert_no_worse("deep", ours, theirs, exact, mask)


@pytest.mark.parametrize("name", MODELS)
def test_transformers_reads_what_was_saved(pair, tmp_path, name):
    reference, folder = pair(name)
    save_text_encoder(tmp_path, load_text_encoder(folder))
    tokens, mask = drawn(19, rows=5)
    again = T5GemmaEncoderModel.from_pretrained(tmp_path).eval()
    np.testing.assert_array_equal(answer(again.encoder, tokens, mask), answer(reference, tokens, mask))
