"""LoRA beside peft's: text encoders with the same factors, which cross over in folders, both ways."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from flax.traverse_util import flatten_dict
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import ByT5Tokenizer

from diffusion_jax.interop import bert_layout, clip_layout, t5_layout
from diffusion_jax.interop.huggingface import load_text_encoder
from diffusion_jax.interop.lora_file import Adapter, load_lora, save_diffusers, save_peft
from diffusion_jax.training import lora

pytestmark = [
    pytest.mark.reference,
    # peft asks transformers by a name that is on its way out
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]


def flat_names(path):
    """CLIP's, as transformers 5 has them in a text encoder without a projection."""
    return clip_layout.tensor(path)[1:]


T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_heads": 4, "num_layers": 2, "feed_forward_proj": "gated-gelu"}
REST = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}
CLIP = REST | {"projection_dim": 24, "max_position_embeddings": 20, "bos_token_id": 382, "eos_token_id": 383}
MODELS = {  # class and settings in transformers, the names of tensors, target_modules of peft, the same for ours
    "T5": ("T5EncoderModel", "T5Config", T5, t5_layout.tensor, ["q", "v", "wo"], r"attention/(q|v)/|/wo/"),
    "umT5": ("UMT5EncoderModel", "UMT5Config", T5, t5_layout.tensor, ["k", "o", "wi_1"], r"/(k|o|wi_1)/"),
    "BERT": ("BertModel", "BertConfig", REST, bert_layout.tensor, ["query", "value"], "(query|value)/"),
    "CLIP": ("CLIPTextModel", "CLIPTextConfig", CLIP, flat_names, ["q_proj", "fc2"], "/q/|fc2/"),
    "CLIP, projected": (
        "CLIPTextModelWithProjection", "CLIPTextConfig", CLIP, clip_layout.tensor, ["out_proj", "text_projection"],
        "/out/|text_projection/",
    ),
}  # fmt: skip
CONFIGS = {
    "scale 2": {"r": 4, "lora_alpha": 8},
    "scale 1/3": {"r": 3, "lora_alpha": 1},
    "ranks, alphas": {"r": 4, "lora_alpha": 6, "rank_pattern": {r".*\.1\..*": 2}, "alpha_pattern": {r".*\.0\..*": 5}},
    "rank-stabilized": {"r": 5, "lora_alpha": 3, "use_rslora": True},
}
ROWS = np.random.default_rng(0).integers(3, 383, (4, 17)).astype(np.int32)
ROWS[:, -1] = 383
MASK = np.arange(17) >= np.array([0, 5, 9, 0])[:, None]


def made(kind, config_kind, settings):
    torch.manual_seed(0)
    config = getattr(transformers, config_kind)(vocab_size=384, **settings)
    return getattr(transformers, kind)(config).eval()


@pytest.fixture
def pair(tmp_path):
    """name -> (torch's encoder, ours with the same parameters)."""

    def pair(name):
        model = made(*MODELS[name][:3])
        model.save_pretrained(tmp_path / "base")
        ByT5Tokenizer().save_pretrained(tmp_path / "base")
        return model, load_text_encoder(tmp_path / "base")

    return pair


def fill(model, seed=1):
    """Factors as large as kernels, as after a long training: a missing or misplaced one shows."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.normal_(std=0.3)
    return model.eval()


def theirs(model):
    inputs = {"input_ids": torch.tensor(ROWS).long(), "attention_mask": torch.tensor(MASK).long()}
    with torch.no_grad():
        out = model(**inputs)
    return out.last_hidden_state.numpy(), getattr(out, "text_embeds", None)


def ours(module, params):
    if hasattr(module, "with_pooled"):
        return jax.jit(lambda *a: module.apply(*a, method="with_pooled"))({"params": params}, ROWS, MASK)
    return jax.jit(module.apply)({"params": params}, ROWS, MASK), None


def error(found, expected):
    (tokens, pooled), (expected_tokens, expected_pooled) = found, expected
    errors = [np.abs(np.asarray(tokens) - expected_tokens)[MASK].max() / np.abs(expected_tokens[MASK]).max()]
    if expected_pooled is not None:
        errors.append(np.abs(np.asarray(pooled) - expected_pooled.numpy()).max() / expected_pooled.abs().max().item())
    return max(errors)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("name", MODELS)
def test_what_peft_saved_has_its_outputs(pair, tmp_path, name, config):
    reference, (module, params, _) = pair(name)
    *_, tensor, targets, _ = MODELS[name]
    before = theirs(reference)
    adapted = fill(get_peft_model(reference, LoraConfig(target_modules=targets, **config)))
    adapted.save_pretrained(tmp_path / "peft")
    factors, alpha = load_lora(tmp_path / "peft", params, tensor)
    expected = theirs(adapted)
    worst = error(ours(module, lora.merged(params, factors, alpha)), expected)
    moved = error(ours(module, params), expected)
    print(f"{name}, {config}: max relative error {worst:.1e}, where without the factors it is {moved:.1e}")
    assert worst <= 1e-5
    assert moved > 1e-2
    assert error(ours(module, lora.merged(params, factors, 0)), before) <= 1e-5


@pytest.mark.parametrize("alpha", [4.0, 2.5])
@pytest.mark.parametrize("name", MODELS)
def test_what_was_saved_here_has_its_outputs_in_peft(pair, tmp_path, name, alpha):
    reference, (module, params, _) = pair(name)
    *_, tensor, targets, where = MODELS[name]
    factors = drawn(params, where)
    save_peft(tmp_path / "ours", Adapter(factors, alpha), tensor)
    adapted = PeftModel.from_pretrained(reference, tmp_path / "ours").eval()
    wanted = get_peft_model(made(*MODELS[name][:3]), LoraConfig(r=3, target_modules=targets))
    assert {name for name, _ in adapted.named_parameters()} == {name for name, _ in wanted.named_parameters()}
    worst = error(ours(module, lora.merged(params, factors, alpha)), theirs(adapted))
    print(f"{name}, alpha {alpha}: max relative error {worst:.1e}")
    assert worst <= 1e-5


def drawn(params, where, rank=3):
    numbers = np.random.default_rng(2)
    factors = lora.init(jax.random.key(0), params, rank, where)
    return jax.tree.map(lambda leaf: jnp.asarray(numbers.normal(0, 0.3, leaf.shape), jnp.float32), factors)


def test_several_ranks_in_peft(pair, tmp_path):
    reference, (module, params, _) = pair("T5")
    factors = drawn(params, "block_0/attention/q") | drawn(params, "block_1/attention/(q|v)", rank=5)
    save_peft(tmp_path / "ours", Adapter(factors, 4.0), t5_layout.tensor)
    adapted = PeftModel.from_pretrained(reference, tmp_path / "ours").eval()
    assert error(ours(module, lora.merged(params, factors, 4.0)), theirs(adapted)) <= 1e-5


@pytest.mark.parametrize("name", ["CLIP", "CLIP, projected"])
def test_diffusers_reads_what_was_saved(pair, tmp_path, name):
    reference, (module, params, _) = pair(name)
    *_, tensor, _, where = MODELS[name]
    factors = drawn(params, where)
    save_diffusers(tmp_path, {"text_encoder": (Adapter(factors, 5.0), tensor)})
    loader = StableDiffusionLoraLoaderMixin
    state, alphas, metadata = loader.lora_state_dict(tmp_path, return_lora_metadata=True)
    loader.load_lora_into_text_encoder(state, alphas, reference, prefix="text_encoder", metadata=metadata)
    expected = theirs(reference.eval())
    worst = error(ours(module, lora.merged(params, factors, 5.0)), expected)
    print(f"{name} in diffusers: max relative error {worst:.1e}")
    assert worst <= 1e-5
    found, alpha = load_lora(tmp_path, params, tensor, prefix="text_encoder")
    assert error(ours(module, lora.merged(params, found, alpha)), expected) <= 1e-5


class Convolutions(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = torch.nn.Conv2d(4, 8, 3, padding=1)
        self.skip = torch.nn.Conv2d(8, 6, 1)

    def forward(self, x):
        return self.skip(torch.relu(self.stem(x)))


def test_convolutions_are_merged_as_in_peft(tmp_path):
    model = fill(get_peft_model(Convolutions(), LoraConfig(r=3, lora_alpha=4, target_modules=["stem", "skip"])))
    model.save_pretrained(tmp_path)

    def kernel(layer):
        return jnp.asarray(layer.weight.detach().numpy().transpose(2, 3, 1, 0))

    network = model.get_base_model()
    params = {name: {"kernel": kernel(getattr(network, name).base_layer)} for name in ("stem", "skip")}
    found = lora.merged(params, *load_lora(tmp_path, params))
    network = model.merge_and_unload()
    for name in params:
        expected = kernel(getattr(network, name))
        worst = np.abs(found[name]["kernel"] - expected).max() / np.abs(expected).max()
        moved = np.abs(params[name]["kernel"] - expected).max() / np.abs(expected).max()
        print(f"{name}: max relative error {worst:.1e}, where without the factors it is {moved:.1e}")
        assert worst <= 1e-6
        assert moved > 0.1


@pytest.mark.parametrize("name", ["T5", "CLIP"])
def test_gradients_of_the_factors_agree(pair, tmp_path, name):
    reference, (module, params, _) = pair(name)
    *_, tensor, targets, _ = MODELS[name]
    adapted = fill(get_peft_model(reference, LoraConfig(r=4, lora_alpha=8, target_modules=targets)))
    adapted.save_pretrained(tmp_path / "peft")
    factors, alpha = load_lora(tmp_path / "peft", params, tensor)
    weight = np.random.default_rng(3).standard_normal((*MASK.shape, 32)).astype(np.float32) * MASK[:, :, None]
    out = adapted(torch.tensor(ROWS).long(), attention_mask=torch.tensor(MASK).long()).last_hidden_state
    (out * torch.tensor(weight)).sum().backward()
    expected = {
        name.removeprefix("base_model.model.").replace(".default", ""): value.grad.numpy().T
        for name, value in adapted.named_parameters()
        if value.grad is not None
    }

    def loss(factors):
        merged = lora.merged(params, factors, alpha)
        return (module.apply({"params": merged}, jnp.asarray(ROWS), jnp.asarray(MASK)) * weight).sum()

    for path, found in flatten_dict(jax.jit(jax.grad(loss))(factors), sep="/").items():
        kernel, _, role = path.rpartition("/")
        stem = tensor(kernel)[0].removesuffix("weight")
        grad = expected.pop(f"{stem}lora_{'A' if role == 'down' else 'B'}.weight")
        worst = np.abs(found - grad).max() / np.abs(grad).max()
        print(f"{name}, {path}: max relative error {worst:.1e}")
        assert worst <= 1e-5, path
    assert not expected


@pytest.mark.parametrize("sides", [(40, 9), (9, 40)])
def test_beginnings_are_of_the_same_law(sides):
    inputs, outputs = sides
    model = get_peft_model(torch.nn.Sequential(torch.nn.Linear(inputs, outputs)), LoraConfig(r=8, target_modules=["0"]))
    theirs = model.base_model.model[0].lora_A["default"].weight.detach().numpy()
    ours = lora.init(jax.random.key(0), {"kernel": jnp.zeros((inputs, outputs))}, 8)["kernel"]
    bounds = [np.abs(factor).max() for factor in (theirs, ours["down"])]
    assert max(bounds) <= inputs**-0.5
    assert min(bounds) > 0.9 * inputs**-0.5
    assert not np.any(ours["up"])
