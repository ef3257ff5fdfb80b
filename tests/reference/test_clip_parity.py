"""The CLIP text encoder beside transformers', with random weights in folders that transformers wrote."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from diffusion_jax.data import tokenizers
from diffusion_jax.interop import clip_layout
from diffusion_jax.interop.huggingface import load_text_encoder, save_text_encoder
from diffusion_jax.models.clip_text import ACTIVATIONS

pytestmark = pytest.mark.reference

VOCAB, END = 99, 98
KINDS = {"text": CLIPTextModel, "projected": CLIPTextModelWithProjection, "whole": CLIPModel}
SIZES = {
    "small": dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, projection_dim=24),
    "one head": dict(hidden_size=16, intermediate_size=80, num_hidden_layers=1, num_attention_heads=1),
    "deep": dict(hidden_size=64, intermediate_size=128, num_hidden_layers=12, num_attention_heads=4),
}
VISION = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1, image_size=8)


def folder_of(path, kind="text", size="small", act="quick_gelu", end=END):
    """transformers' model, and the folder where it saved itself with a tokenizer."""
    torch.manual_seed(0)
    sizes = SIZES[size] | dict(vocab_size=VOCAB, hidden_act=act, eos_token_id=end, bos_token_id=97)
    config = CLIPTextConfig(**sizes)
    if kind == "whole":
        vision = VISION | dict(patch_size=4)
        config = CLIPConfig(text_config=sizes, vision_config=vision, projection_dim=sizes.get("projection_dim", 512))
    reference = KINDS[kind](config).eval()
    with torch.no_grad():
        for name, weight in reference.named_parameters():
            if "norm" in name and "weight" in name:
                weight.uniform_(0.5, 1.5)  # all ones would hide a misplaced scale
            elif weight.ndim == 1:
                weight.normal_(std=0.3)  # and zeros a misplaced bias
            elif "embedding" in name:
                weight.normal_(std=0.7)
            elif weight.ndim == 2:
                weight.normal_(std=1.5 * weight.shape[1] ** -0.5)  # larger than at first, so that attention is sharp
    reference.save_pretrained(path)
    tokenizers.save(path, tokenizers.byt5())
    return reference, path


def captions(length, seed=0):
    """Rows that end and are padded with the end or 0, or not; masks that end with them, with a hole before."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, 97, (4, length)).astype(np.int32)
    ends = np.array([length, length // 2 + 1, 1, (length + 2) // 3])
    at = np.arange(length)[None, :]
    tokens = np.where(at >= ends[:, None], np.array([[0], [END], [0], [END]]), tokens)
    tokens[np.arange(4), ends - 1] = END
    # Without a hole a mask would do nothing to what counts: no token sees the padding after it.
    hole = (at == ends[:, None] - 2) & (at > 0)
    return tokens.astype(np.int32), (at < ends[:, None]) & ~hole


def theirs(reference, tokens, mask, **options):
    model = reference.text_model if isinstance(reference, CLIPModel) else reference
    mask = None if mask is None else torch.tensor(mask).long()
    return model(torch.tensor(tokens).long(), attention_mask=mask, **options)


def pooled_of(reference, out):
    if isinstance(reference, CLIPTextModelWithProjection):
        return out.text_embeds
    return reference.text_projection(out.pooler_output) if isinstance(reference, CLIPModel) else out.pooler_output


def ours(module, params, tokens, mask):
    """The vectors of tokens and captions, as numpy arrays."""
    run = jax.jit(lambda params, *inputs: module.apply({"params": params}, *inputs, method="with_pooled"))
    return [np.asarray(found) for found in run(params, tokens, mask)]


def relative(found, expected, where=...):
    found, expected = np.asarray(found)[where], np.asarray(expected)[where]
    return np.abs(found - expected).max() / np.abs(expected).max()


CASES = [("text", "small", act, 77, masked) for act in ACTIVATIONS for masked in (True, False)]
CASES += [("text", "small", "quick_gelu", length, masked) for length in (1, 2, 3, 16, 76) for masked in (True, False)]
CASES += [("text", "deep", "gelu", 20, True), ("projected", "small", "gelu", 20, True)]
CASES += [("whole", "small", "gelu", 20, False), ("whole", "one head", "gelu", 20, True)]


@pytest.mark.parametrize(("kind", "size", "act", "length", "masked"), CASES)
def test_outputs_agree_in_float32(tmp_path, kind, size, act, length, masked):
    reference, folder = folder_of(tmp_path, kind, size, act)
    module, params, _ = load_text_encoder(folder)
    tokens, mask = captions(length)
    mask = mask if masked else np.ones_like(mask)
    with torch.no_grad():
        out = theirs(reference, tokens, mask if masked else None)
        expected = out.last_hidden_state.numpy(), pooled_of(reference, out).numpy()
    found = ours(module, params, tokens, mask)
    assert (found[0][~mask] == 0).all()
    errors = relative(found[0], expected[0], mask), relative(found[1], expected[1])
    print(
        f"{kind}, {size}, {act}, length {length}, masked {masked}: max relative error {errors[0]:.1e}, {errors[1]:.1e}"
    )
    assert max(errors) <= 1e-5


@pytest.mark.parametrize(("skip", "final_norm"), [(0, False), (1, True), (1, False), (2, True), (12, False)])
def test_earlier_layers_agree_with_and_without_the_final_norm(tmp_path, skip, final_norm):
    """diffusers takes hidden_states[-(skip + 1)], and norms it in Stable Diffusion 1 and 2 but not in XL and 3."""
    reference, folder = folder_of(tmp_path, size="deep")
    module, params, _ = load_text_encoder(folder)
    tokens, mask = captions(20)
    with torch.no_grad():
        out = theirs(reference, tokens, mask, output_hidden_states=True)
        expected = out.hidden_states[-(skip + 1)]
        expected = reference.final_layer_norm(expected) if final_norm else expected
    found, pooled = ours(module.clone(skip=skip, final_norm=final_norm), params, tokens, mask)
    errors = relative(found, expected, mask), relative(pooled, out.pooler_output)
    print(f"skip {skip}, final norm {final_norm}: max relative error {errors[0]:.1e}, pooled {errors[1]:.1e}")
    assert max(errors) <= 1e-5


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize(
    ("end", "tokens"),
    [
        (50, [[3, 50, 60, 50], [50, 1, 2, 3], [1, 2, 3, 50]]),  # the first end, though there are higher tokens
        (2, [[3, 50, 60, 2], [98, 1, 98, 3], [2, 2, 2, 2]]),  # an old config: the first of the highest
        (50, [[3, 51, 60, 49]] * 3),  # no end: the first position
    ],
)
def test_pooled_reads_where_transformers_reads(tmp_path, kind, end, tokens):
    reference, folder = folder_of(tmp_path, kind, end=end)
    module, params, _ = load_text_encoder(folder)
    tokens = np.array(tokens, np.int32)
    with torch.no_grad():
        expected = pooled_of(reference, theirs(reference, tokens, None))
    _, found = ours(module, params, tokens, np.ones(tokens.shape, bool))
    assert found.shape == expected.shape
    error = relative(found, expected)
    print(f"{kind}, end {end}: max relative error {error:.1e}")
    assert error <= 1e-5


@pytest.mark.parametrize("act", list(ACTIVATIONS))
def test_gradients_agree_in_float32(tmp_path, act):
    reference, folder = folder_of(tmp_path, "projected", act=act)
    module, params, _ = load_text_encoder(folder)
    tokens, mask = captions(19)
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((*mask.shape, 32)).astype(np.float32) * mask[:, :, None]
    weights = weights, rng.standard_normal((4, 24)).astype(np.float32)
    out = theirs(reference, tokens, mask)
    out = out.last_hidden_state, out.text_embeds
    sum((each * torch.tensor(weight)).sum() for each, weight in zip(out, weights, strict=True)).backward()
    expected = {name: value.grad.numpy() for name, value in reference.named_parameters()}

    def loss(params):
        found = module.apply({"params": params}, jnp.asarray(tokens), jnp.asarray(mask), method="with_pooled")
        return (found[0] * weights[0]).sum() + (found[1] * weights[1]).sum()

    grads = jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(params))
    assert len(grads) == len(expected)
    for path, found in grads:
        path = "/".join(key.key for key in path)
        grad = expected[clip_layout.tensor(path)[0]]
        grad = grad.T if path.endswith("kernel") else grad
        # A bias of the keys moves all logits of a query alike, so its gradient is rounding alone.
        error = np.abs(found - grad).max() / (1.0 if path.endswith("k/bias") else np.abs(grad).max())
        print(f"{act}, {path}: max relative error {error:.1e}")
        assert error <= 1e-5, path


def test_half_precision_is_no_worse_than_torchs(tmp_path):
    """bfloat16 against float32: ours keeps norms, logits and the sum over layers in float32."""
    reference, folder = folder_of(tmp_path, size="deep")
    module, params, _ = load_text_encoder(folder, jnp.bfloat16)
    tokens, mask = captions(33)
    with torch.no_grad():
        exact = theirs(reference, tokens, mask).last_hidden_state.numpy()
        torchs = theirs(reference.bfloat16(), tokens, mask).last_hidden_state.float().numpy()
    found, _ = ours(module, params, tokens, mask)
    errors = [np.linalg.norm((each - exact)[mask]) / np.linalg.norm(exact[mask]) for each in (found, torchs)]
    print(f"bfloat16 relative error: ours {errors[0]:.1e}, torch {errors[1]:.1e}")
    assert errors[0] <= errors[1]


@pytest.mark.parametrize(("kind", "end"), [("text", END), ("text", 2), ("projected", END), ("whole", END)])
def test_transformers_reads_what_was_saved(tmp_path, kind, end):
    reference, folder = folder_of(tmp_path / "theirs", kind, end=end)
    encoder = load_text_encoder(folder)
    save_text_encoder(tmp_path / "ours", encoder)
    wanted = CLIPTextModel if kind == "text" else CLIPTextModelWithProjection
    again, info = wanted.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokens, mask = captions(9)
    with torch.no_grad():
        expected, found = (theirs(model, tokens, mask) for model in (reference, again))
        expected, found = pooled_of(reference, expected), pooled_of(again, found)
    np.testing.assert_array_equal(found.numpy(), expected.numpy())
    assert load_text_encoder(tmp_path / "ours").module == encoder.module


@pytest.mark.parametrize("prefix", ["text_model.", ""])
def test_names_with_and_without_a_prefix_and_old_buffers_are_read(tmp_path, prefix):
    from safetensors.torch import save_file

    reference, folder = folder_of(tmp_path)
    state = {prefix + name.removeprefix("text_model."): value for name, value in reference.state_dict().items()}
    state[f"{prefix}embeddings.position_ids"] = torch.arange(77)[None]
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    module, params, _ = load_text_encoder(folder)
    tokens, mask = captions(9)
    with torch.no_grad():
        expected = theirs(reference, tokens, mask).last_hidden_state
    assert relative(ours(module, params, tokens, mask)[0], expected, mask) <= 1e-5
