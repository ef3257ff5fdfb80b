"""The T5 encoder beside transformers' torch T5EncoderModel, with the same random weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import T5Config, T5EncoderModel
from transformers.models.t5.modeling_t5 import T5Attention

from diffusion_jax.models.t5 import T5Encoder, position_buckets

pytestmark = pytest.mark.reference

BLOCK_NAMES = {
    "attention_norm/scale": "layer.0.layer_norm.weight",
    "feed_forward_norm/scale": "layer.1.layer_norm.weight",
    **{f"attention/{name}/kernel": f"layer.0.SelfAttention.{name}.weight" for name in "qkvo"},
    **{f"feed_forward/{name}/kernel": f"layer.1.DenseReluDense.{name}.weight" for name in ["wi", "wi_0", "wi_1", "wo"]},
}
NAMES = {
    "token_embedding/embedding": "shared.weight",
    "position_bias/embedding": "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
    "final_norm/scale": "encoder.final_layer_norm.weight",
}


def torch_name(path: str) -> str:
    block, _, rest = path.partition("/")
    return NAMES.get(path) or f"encoder.block.{block.removeprefix('block_')}.{BLOCK_NAMES[rest]}"


def both_models(seed, *, vocab=97, dim, d_kv, d_ff, heads, layers, gated, buckets=32, max_distance=128):
    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=vocab,
        d_model=dim,
        d_kv=d_kv,
        d_ff=d_ff,
        num_heads=heads,
        num_layers=layers,
        feed_forward_proj="gated-gelu" if gated else "relu",
        relative_attention_num_buckets=buckets,
        relative_attention_max_distance=max_distance,
    )
    reference = T5EncoderModel(config).eval()
    with torch.no_grad():
        for name, weight in reference.named_parameters():
            if "layer_norm" in name:
                weight.uniform_(0.5, 1.5)  # all ones would hide a misplaced scale
            if "relative_attention_bias" in name:
                weight.normal_(std=1.0)  # as large as trained ones, so that a wrong bucket shows
    ours = T5Encoder(vocab, dim, d_kv, d_ff, heads, layers, gated, buckets, max_distance)
    one = jnp.zeros((1, 1), jnp.int32)
    shapes = jax.eval_shape(ours.init, jax.random.key(0), one, one == 0)
    state = {name: weight.detach().numpy() for name, weight in reference.named_parameters()}

    def weight(path, shape):
        value = state[torch_name("/".join(key.key for key in path[1:]))]
        value = value.T if path[-1].key == "kernel" else value
        assert value.shape == shape.shape
        return jnp.asarray(value)

    return reference, ours, jax.tree_util.tree_map_with_path(weight, shapes)


def masks(length: int) -> np.ndarray:
    """Full, right-padded, left-padded, a hole in the middle, one token, none."""
    at, half = np.arange(length), (length + 1) // 2
    rows = [at >= 0, at < half, at >= length - half, abs(at - half) > 0, at == 0, at < 0]
    return np.stack(rows)


CONFIGS = {
    "v1.1": {"dim": 32, "d_kv": 8, "d_ff": 64, "heads": 4, "layers": 2, "gated": True},
    "v1.0": {"dim": 32, "d_kv": 8, "d_ff": 128, "heads": 4, "layers": 2, "gated": False},
    "wide heads": {"dim": 24, "d_kv": 16, "d_ff": 40, "heads": 3, "layers": 3, "gated": True},
    "narrow heads": {"dim": 48, "d_kv": 4, "d_ff": 96, "heads": 5, "layers": 3, "gated": False},
    "one head, one layer": {"dim": 16, "d_kv": 16, "d_ff": 16, "heads": 1, "layers": 1, "gated": True},
    "deep": {"dim": 64, "d_kv": 16, "d_ff": 128, "heads": 4, "layers": 12, "gated": True},
    "other buckets": {"dim": 32, "d_kv": 8, "d_ff": 64, "heads": 4, "layers": 2, "gated": True, "buckets": 16}
    | {"max_distance": 40},
}
CASES = [(name, length) for name in ["v1.1", "v1.0"] for length in [1, 2, 3, 7, 16, 31, 64, 97, 129, 130]]
CASES += [(name, length) for name in list(CONFIGS)[2:] for length in [5, 77]]


@pytest.mark.parametrize(("name", "length"), CASES)
def test_outputs_agree_in_float32(name, length):
    reference, ours, params = both_models(length, **CONFIGS[name])
    mask = masks(length)
    tokens = np.random.default_rng(length).integers(0, 97, mask.shape).astype(np.int32)
    with torch.no_grad():
        expected = reference(torch.tensor(tokens).long(), attention_mask=torch.tensor(mask)).last_hidden_state.numpy()
    found = np.asarray(jax.jit(ours.apply)(params, jnp.asarray(tokens), jnp.asarray(mask)))
    assert (found[~mask] == 0).all()
    error = np.abs(found - expected)[mask].max() / np.abs(expected[mask]).max()
    print(f"{name}, length {length}: max relative error {error:.1e}")
    assert error <= 1e-5


@pytest.mark.parametrize("name", ["v1.1", "v1.0"])
def test_gradients_agree_in_float32(name):
    reference, ours, params = both_models(0, **CONFIGS[name])
    mask = masks(19)[:5]
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 97, mask.shape).astype(np.int32)
    weight = rng.standard_normal((*mask.shape, CONFIGS[name]["dim"])).astype(np.float32) * mask[:, :, None]
    out = reference(torch.tensor(tokens).long(), attention_mask=torch.tensor(mask)).last_hidden_state
    (out * torch.tensor(weight)).sum().backward()
    expected = {name: value.grad.numpy() for name, value in reference.named_parameters()}

    def loss(params):
        return (ours.apply(params, jnp.asarray(tokens), jnp.asarray(mask)) * weight).sum()

    for path, found in jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(params)):
        grad = expected[torch_name("/".join(key.key for key in path[1:]))]
        grad = grad.T if path[-1].key == "kernel" else grad
        error = np.abs(found - grad).max() / np.abs(grad).max()
        print(f"{jax.tree_util.keystr(path)}: max relative error {error:.1e}")
        assert error <= 1e-5, path


@pytest.mark.parametrize(("buckets", "max_distance"), [(32, 128), (32, 256), (16, 64), (8, 20), (12, 50), (64, 512)])
def test_buckets_agree(buckets, max_distance):
    length = 2 * max_distance + 5
    offsets = torch.arange(length)[None, :] - torch.arange(length)[:, None]
    expected = T5Attention._relative_position_bucket(offsets, True, buckets, max_distance)
    np.testing.assert_array_equal(position_buckets(length, buckets, max_distance), expected.numpy())


def test_half_precision_is_no_worse_than_torchs():
    """bfloat16 against float32: ours keeps norms, logits and the sum over layers in float32."""
    reference, _, params = both_models(3, **CONFIGS["deep"])
    half = T5Encoder(97, dtype=jnp.bfloat16, **CONFIGS["deep"])
    mask = masks(33)[:4]
    tokens = np.random.default_rng(3).integers(0, 97, mask.shape).astype(np.int32)
    inputs = {"input_ids": torch.tensor(tokens).long(), "attention_mask": torch.tensor(mask)}
    with torch.no_grad():
        exact = reference(**inputs).last_hidden_state.numpy()
        theirs = reference.bfloat16()(**inputs).last_hidden_state.float().numpy()
    ours = np.asarray(half.apply(params, jnp.asarray(tokens), jnp.asarray(mask)))
    errors = [np.linalg.norm((found - exact)[mask]) / np.linalg.norm(exact[mask]) for found in (ours, theirs)]
    print(f"bfloat16 relative error: ours {errors[0]:.1e}, torch {errors[1]:.1e}")
    assert errors[0] <= errors[1]
