"""Text encoders to folders and back, and one clear line for what is wrong with a folder."""

import json
import shutil
from functools import cache

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from diffusion_jax.data import tokenizers
from diffusion_jax.interop import huggingface, safetensors_file, tensors
from diffusion_jax.interop.huggingface import TextEncoder, load_text_encoder, save_text_encoder
from diffusion_jax.models.t5 import T5Encoder

SMALL = {"vocab": 384, "dim": 16, "d_kv": 6, "d_ff": 32, "heads": 4, "layers": 2}
KINDS = {"v1.0": {"gated": False}, "v1.1": {"gated": True}, "umt5": {"gated": True, "bias_per_layer": True}}
CAPTIONS = ["a red heart", "", "🙂 </s> and a caption that is too long"]
NORM = "encoder.final_layer_norm.weight"
QUERY = "encoder.block.1.layer.0.SelfAttention.q.weight"


@cache
def encoder(kind="v1.1"):
    module = T5Encoder(**SMALL, **KINDS[kind])
    rng = np.random.default_rng(len(kind))
    one = jnp.zeros((1, 1), jnp.int32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), one, one == 0)["params"]
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.4, leaf.shape), jnp.float32), shapes)
    return TextEncoder(module, params, tokenizers.byt5(24))


def embedded(encoder, captions=CAPTIONS):
    return np.asarray(jax.jit(encoder.module.apply)({"params": encoder.params}, *encoder.tokenizer(captions)))


def assert_equal(found, expected, rounded=lambda value: value):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for path, value in jax.tree_util.tree_leaves_with_path(expected):
        leaf = found
        for key in path:
            leaf = leaf[key.key]
        assert leaf.dtype == jnp.float32, path
        np.testing.assert_array_equal(leaf, rounded(np.asarray(value)), str(path))


@pytest.fixture
def folder(tmp_path):
    save_text_encoder(tmp_path / "model", encoder())
    return tmp_path / "model"


def edit_config(folder, drop=(), **changes):
    told = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({key: value for key, value in told.items() if key not in drop}))


def edit_tensors(folder, edit):
    found = safetensors.numpy.load_file(folder / tensors.NAME)
    edit(found)
    safetensors.numpy.save_file(found, folder / tensors.NAME, {"format": "pt"})


def split(folder, shards=3):
    """The tensors dealt to several files, and the index that says which has which."""
    found = sorted(safetensors.numpy.load_file(folder / tensors.NAME).items())
    (folder / tensors.NAME).unlink()
    names = [f"model-{i + 1:05d}-of-{shards:05d}.safetensors" for i in range(shards)]
    for i, name in enumerate(names):
        safetensors.numpy.save_file(dict(found[i::shards]), folder / name)
    index = {"metadata": {}, "weight_map": {key: names[i % shards] for i, (key, _) in enumerate(found)}}
    (folder / f"{tensors.NAME}.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_saved_comes_back_bit_for_bit(tmp_path, kind):
    save_text_encoder(tmp_path / "new" / "model", encoder(kind))
    found = load_text_encoder(tmp_path / "new" / "model", max_length=24)
    assert found.module == encoder(kind).module
    assert_equal(found.params, encoder(kind).params)
    for ours, expected in zip(found.tokenizer(CAPTIONS), encoder().tokenizer(CAPTIONS), strict=True):
        np.testing.assert_array_equal(ours, expected)
    np.testing.assert_array_equal(embedded(found), embedded(encoder(kind)))
    files = {"config.json", "model.safetensors", "tokenizer_config.json"}
    assert (
        files
        <= {file.name for file in (tmp_path / "new" / "model").iterdir()}
        <= files
        | {
            "added_tokens.json",
            "special_tokens_map.json",
        }
    )


@pytest.mark.parametrize(
    ("same", "edit"),
    [
        (True, split),
        (True, lambda folder: edit_tensors(folder, lambda found: found.update(of_type(found, np.float64)))),
        (True, lambda folder: edit_config(folder, ["relative_attention_max_distance"])),
        (False, lambda folder: edit_tensors(folder, lambda found: found[NORM].__setitem__(3, found[NORM][3] + 1e-6))),
        (False, lambda folder: edit_tensors(folder, lambda found: found.update({QUERY: -found[QUERY]}))),
        (False, lambda folder: edit_config(folder, relative_attention_max_distance=64)),
    ],
)
def test_an_encoder_is_another_by_one_number_or_one_setting(folder, same, edit):
    before = huggingface.digest(folder)
    assert huggingface.digest(folder, jnp.bfloat16) != before
    edit(folder)
    assert (huggingface.digest(folder) == before) == same


def of_type(found, stored):
    return {name: value.astype(stored) for name, value in found.items()}


@pytest.mark.parametrize("stored", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_files_of_other_precisions_are_float32_again(folder, stored):
    edit_tensors(folder, lambda found: found.update(of_type(found, stored)))
    assert_equal(
        load_text_encoder(folder).params, encoder().params, lambda value: value.astype(stored).astype(np.float32)
    )


def test_float16_is_half_the_size(folder, tmp_path):
    save_text_encoder(tmp_path / "half", encoder(), "float16")
    sizes = [(at / tensors.NAME).stat().st_size for at in (tmp_path / "half", folder)]
    assert sizes[0] < 0.6 * sizes[1]
    rounded = lambda value: value.astype(np.float16).astype(np.float32)  # noqa: E731
    assert_equal(load_text_encoder(tmp_path / "half").params, encoder().params, rounded)


@pytest.mark.parametrize(
    ("drop", "changes"),
    [
        (["relative_attention_max_distance", "relative_attention_num_buckets", "layer_norm_epsilon"], {}),
        (["feed_forward_proj"], {"model_type": "mt5"}),  # T5's default is relu, and mT5's is gated
        ([], {"model_type": "mt5", "dense_act_fn": "gelu_new", "is_gated_act": True, "tie_word_embeddings": False}),
    ],
)
def test_configs_of_other_versions_say_less_or_more(folder, drop, changes):
    edit_config(folder, drop, **changes)
    found = load_text_encoder(folder)
    assert found.module == encoder().module
    assert_equal(found.params, encoder().params)


@pytest.mark.parametrize("shards", [1, 3])
def test_shards_with_an_index(folder, shards):
    split(folder, shards)
    assert_equal(load_text_encoder(folder).params, encoder().params)


def test_names_that_others_use_for_the_embedding_and_what_is_not_the_encoders(folder):
    """T5ForConditionalGeneration saved whole: a decoder, a head, and the embedding under each of its names."""

    def whole(found):
        shared = found.pop("shared.weight")
        found |= {"encoder.embed_tokens.weight": shared, "decoder.embed_tokens.weight": shared.copy()}
        found |= {"lm_head.weight": shared + 1, "decoder.block.0.layer.0.SelfAttention.q.weight": shared[:4]}

    edit_tensors(folder, whole)
    assert_equal(load_text_encoder(folder).params, encoder().params)


def test_large_tensors_are_read_in_pieces(folder, monkeypatch):
    monkeypatch.setattr(tensors, "PIECE", 200)
    assert_equal(load_text_encoder(folder).params, encoder().params)


def test_bfloat16_is_of_matrices_alone(folder):
    found = load_text_encoder(folder, jnp.bfloat16, max_length=24)
    for leaf in jax.tree.leaves(found.params):
        assert leaf.dtype == (jnp.bfloat16 if leaf.ndim > 1 else jnp.float32)
    y, exact = embedded(found), embedded(encoder())
    assert y.dtype == np.float32
    assert 1e-4 < np.linalg.norm(y - exact) / np.linalg.norm(exact) < 2e-2


def test_one_device_by_default_and_another_where_told(folder):
    for device, sharding in [(0, None), (3, SingleDeviceSharding(jax.devices()[3]))]:
        params = load_text_encoder(folder, sharding=sharding).params
        assert {leaf.device for leaf in jax.tree.leaves(params)} == {jax.devices()[device]}


@pytest.mark.parametrize(
    "spec",
    [
        lambda shape: PartitionSpec("all"),  # columns of a file's matrix, for a kernel is the transpose of it
        lambda shape: PartitionSpec(*[None] * (len(shape) - 1), "all"),  # rows of it
        lambda shape: PartitionSpec("four", "two") if len(shape) > 1 else PartitionSpec("two"),
        lambda shape: PartitionSpec(),
    ],
    ids=["first axis", "last axis", "both", "copied"],
)
def test_parameters_go_straight_to_the_shards_of_a_mesh(folder, monkeypatch, spec):
    axes = ("four", "two") if spec((8, 8)) == PartitionSpec("four", "two") else ("all",)
    mesh = jax.sharding.Mesh(np.array(jax.devices()).reshape((4, 2) if len(axes) > 1 else (8,)), axes)
    read, part_of = [], tensors.part_of
    monkeypatch.setattr(tensors, "part_of", lambda *args: read.append(part_of(*args)) or read[-1])

    def sharding(path, shape):
        # The bias table has 4 heads, which 8 devices cannot share.
        return NamedSharding(mesh, PartitionSpec() if path.startswith("position_bias") else spec(shape))

    found = load_text_encoder(folder, max_length=24, sharding=sharding)
    for path, leaf in jax.tree_util.tree_leaves_with_path(found.params):
        wanted = sharding("/".join(key.key for key in path), leaf.shape)
        assert leaf.sharding == wanted, path
        assert len(leaf.addressable_shards) == 8
        assert {shard.data.shape for shard in leaf.addressable_shards} == {wanted.shard_shape(leaf.shape)}
    assert_equal(found.params, encoder().params)
    assert sum(part.size for part in read) == sum(leaf.size for leaf in jax.tree.leaves(found.params))  # nothing twice
    y, expected = embedded(found), embedded(encoder())
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def test_a_name_of_the_hub_that_is_in_its_cache(folder, tmp_path, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    snapshot = tmp_path / "cache" / "models--someone--small" / "snapshots" / "0123"
    (snapshot.parents[1] / "refs").mkdir(parents=True)
    (snapshot.parents[1] / "refs" / "main").write_text("0123")
    shutil.copytree(folder, snapshot)
    assert_equal(load_text_encoder("someone/small").params, encoder().params)
    assert tokenizers.pretrained("someone/small", 8)(["a"])[0].tolist() == [[100, 1, 0, 0, 0, 0, 0, 0]]
    (snapshot / tensors.NAME).unlink()  # as when the tokenizer alone was ever asked for
    with pytest.raises(FileNotFoundError, match=r"0123 has no model\.safetensors"):
        load_text_encoder("someone/small")


def without_padding(folder):
    for file in folder.glob("*token*"):
        file.unlink()
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]").save_pretrained(folder)


def three_wrong(found):
    found[NORM] = found[NORM][:-1]
    found["encoder.block.2.layer.0.SelfAttention.q.weight"] = found.pop(QUERY)


def in_the_wrong_shard(folder):
    split(folder)
    index = folder / f"{tensors.NAME}.index.json"
    told = json.loads(index.read_text())
    told["weight_map"] = dict.fromkeys(told["weight_map"], sorted(folder.glob("model-*"))[0].name)
    index.write_text(json.dumps(told))


def pickle_alone(folder):
    (folder / tensors.NAME).rename(folder / "pytorch_model.bin")


def cut(path, keep):
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])


BAD = [
    ("no folder", shutil.rmtree, FileNotFoundError, "there is no such folder"),
    ("no config", lambda at: (at / "config.json").unlink(), FileNotFoundError, "has no config.json"),
    ("no JSON", lambda at: (at / "config.json").write_text("{"), ValueError, r"config.json is no JSON"),
    ("bytes", lambda at: (at / "config.json").write_bytes(b"\xff\xfe{}"), ValueError, r"config.json is no JSON"),
    ("a list", lambda at: (at / "config.json").write_text("[]"), ValueError, "model_type is None"),
    ("decoder", lambda at: edit_config(at, model_type="gpt2"), ValueError, "'gpt2'.*no text encoder.*known are t5"),
    ("vision", lambda at: edit_config(at, model_type="vit"), ValueError, "'vit'.*no text encoder.*known are t5"),
    ("a key less", lambda at: edit_config(at, ["d_model"]), ValueError, "config.json: it does not say 'd_model'"),
    ("other gate", lambda at: edit_config(at, feed_forward_proj="gated-silu"), ValueError, "config.json.*gated-silu"),
    ("other act", lambda at: edit_config(at, dense_act_fn="silu"), ValueError, "config.json: dense_act_fn is 'silu'"),
    ("other eps", lambda at: edit_config(at, layer_norm_epsilon=1e-5), ValueError, "config.json.*1e-05"),
    ("buckets", lambda at: edit_config(at, relative_attention_num_buckets=2), ValueError, "config.json.*buckets >= 4"),
    (
        "three wrong tensors",
        lambda at: edit_tensors(at, three_wrong),
        ValueError,
        rf"{QUERY} is missing; {NORM} is \(15,\), and config.json makes it \(16,\); .*block.2.*q.weight is left over",
    ),
    ("all wrong", lambda at: edit_config(at, d_model=24), ValueError, "config.json makes it.* and 12 more"),
    (
        "integers",
        lambda at: edit_tensors(at, lambda found: found.update({NORM: np.ones(16, np.int8)})),
        ValueError,
        f"{NORM} is I8",
    ),
    ("truncated", lambda at: cut(at / tensors.NAME, 0.9), ValueError, "model.safetensors is truncated"),
    ("empty", lambda at: cut(at / tensors.NAME, 0), ValueError, "model.safetensors is truncated"),
    ("no tensors", lambda at: (at / tensors.NAME).unlink(), FileNotFoundError, "has no model.safetensors and no"),
    ("pickle", pickle_alone, ValueError, r"pytorch_model.bin is a pickle.*save_pretrained"),
    ("cut index", lambda at: (split(at), cut(next(at.glob("*.index.json")), 0.5)), ValueError, "no index of shards"),
    (
        "empty index",
        lambda at: (split(at), next(at.glob("*.index.json")).write_text("[]")),
        ValueError,
        "no index of shards",
    ),
    (
        "shard missing",
        lambda at: (split(at), (at / "model-00002-of-00003.safetensors").unlink()),
        FileNotFoundError,
        "lacks model-00002-of-00003.safetensors, which model.safetensors.index.json names",
    ),
    ("wrong shard", in_the_wrong_shard, ValueError, "model-00001-of-00003.safetensors lacks the tensor"),
    (
        "shard cut",
        lambda at: (split(at), cut(at / "model-00003-of-00003.safetensors", 0.5)),
        ValueError,
        "model-00003-of-00003.safetensors is truncated",
    ),
    ("no tokenizer", lambda at: [file.unlink() for file in at.glob("*token*")], FileNotFoundError, "no tokenizer"),
    ("broken tokenizer", lambda at: cut(at / "tokenizer_config.json", 0.5), ValueError, "cannot read its tokenizer"),
    ("no padding", without_padding, ValueError, "its tokenizer has no padding token"),
]


@pytest.mark.parametrize(("spoil", "error", "message"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_a_folder_with_something_wrong_is_one_clear_line(folder, spoil, error, message):
    spoil(folder)
    with pytest.raises(error, match=message) as caught:
        load_text_encoder(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_room_for_a_token_and_the_end(folder):
    with pytest.raises(ValueError, match=r"max_length is 1; .* use 2 or more"):
        load_text_encoder(folder, max_length=1)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("google/flan-t5-nowhere", "not in the hub's cache, and could not be fetched.*download its config.json"),
        ("./flan-t5-nowhere", "there is no such folder"),
        ("a b", "there is no such folder"),
    ],
)
def test_a_name_that_leads_nowhere(name, message):
    with pytest.raises(FileNotFoundError, match=message) as caught:
        load_text_encoder(name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def full(*args):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("stage", [(safetensors_file.os, "fsync"), (huggingface, "write_json"), (tokenizers, "save")])
def test_a_full_disk_leaves_what_stood_there(folder, tmp_path, monkeypatch, stage):
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    monkeypatch.setattr(*stage, full)
    for at in (folder, tmp_path / "new"):
        with pytest.raises(OSError, match="No space left"):
            save_text_encoder(at, encoder("umt5"))
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert [at.name for at in tmp_path.iterdir()] == ["model"]


def test_a_folder_that_cannot_be_made_and_encoders_that_cannot_be_saved(folder, tmp_path):
    (tmp_path / "file").touch()
    foreign = encoder()._replace(tokenizer=lambda captions: captions)
    rows = [
        (tmp_path / "file" / "model", encoder(), "float32", OSError, "file"),
        (folder, encoder()._replace(module=nn.Dense(1)), "float32", ValueError, "is of no family.*t5, mt5, umt5"),
        (folder, foreign, "float32", ValueError, "no tokenizer of"),
        (folder, encoder(), "int8", ValueError, "float32 or float16, not int8"),
    ]
    for at, which, dtype, error, message in rows:
        with pytest.raises(error, match=message):
            save_text_encoder(at, which, dtype)
    assert_equal(load_text_encoder(folder).params, encoder().params)


def test_a_folder_that_is_written_over_is_read_anew(folder):
    save_text_encoder(folder, load_text_encoder(folder, max_length=24)._replace(params=encoder("v1.1").params))
    assert_equal(load_text_encoder(folder).params, encoder().params)
    shutil.rmtree(folder)
    save_text_encoder(folder, encoder("umt5"))
    assert load_text_encoder(folder).module.bias_per_layer
