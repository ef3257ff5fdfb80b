"""`diffusion-jax data embed`: a config's captions through its pretrained encoder, once."""

import io
import json
import re

import jax
import pytest
from PIL import Image

from diffusion_jax import text
from diffusion_jax.data import embeddings, tokenizers
from diffusion_jax.interop.huggingface import TextEncoder, save_text_encoder
from diffusion_jax.models.t5 import T5Encoder

CONFIG = """
from experiments import tiny

def get_config():
    config = tiny.get_config()
    config.data = dict(name="folder", path="mine", held_out=0.3)
    config.tokenizer = dict(name="pretrained", folder="t5", max_length=12)
    config.text_encoder = dict(name="pretrained", folder="t5")
    return config
"""


@pytest.fixture
def data(command, tmp_path, monkeypatch):
    """The command in a folder with ten captioned pictures, a text encoder and a config."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    for number in range(10):
        (tmp_path / "mine" / f"{number}.png").write_bytes(buffer.getvalue())
        (tmp_path / "mine" / f"{number}.txt").write_text(f"shade {number}\nred")
    module, tokenizer = T5Encoder(vocab=384, dim=8, d_kv=4, d_ff=8, heads=2, layers=1), tokenizers.byt5(12)
    params = jax.jit(module.init)(jax.random.key(0), *tokenizer([""]))["params"]
    save_text_encoder(tmp_path / "t5", TextEncoder(module, params, tokenizer))
    (tmp_path / "config.py").write_text(CONFIG)
    return lambda *words: command("data", "embed", *words)


def test_every_caption_of_a_config_is_embedded_once(data, tmp_path):
    code, out, err = data("--config=config.py", "--batch_size=5")
    assert code == 0
    first, second = out.splitlines()
    assert re.fullmatch(r"embedded 14 captions, [\d,.]+ a second", first)
    [folder] = (tmp_path / "data" / "embeddings").iterdir()
    told = rf"data/embeddings/{folder.name} holds 14 of [\d,]+ bytes each; 2 were cut to 12 tokens"
    assert re.fullmatch(told, second)
    assert "10/10" in err
    assert "14 captions" in err
    card = json.loads((folder / "card.json").read_text())
    assert card["about"] == {
        "text_encoder": {"name": "pretrained", "folder": "t5"},
        "tokenizer": {"name": "pretrained", "folder": "t5", "max_length": 12},
    }

    identity = text.identity(tokenizers.pretrained("t5", 12), "t5")
    cache = embeddings.open_cache("data/embeddings", identity)
    prompts = ["a small red circle", "two blue squares"]  # of experiments/tiny.py
    values, _ = cache.rows(["", "red", *prompts, *(f"shade {number}" for number in range(10))])
    assert values.shape == (14, 12, 8)
    code, out, _ = data("--config=config.py")
    assert (code, out.splitlines()[0].split(",")[0]) == (0, "embedded 0 captions")


def test_machines_share_the_work_in_a_folder_of_theirs(data):
    counts = []
    for index in range(2):
        code, out, _ = data("--config=config.py", "--out=kept", f"--shard_index={index}", "--shard_count=2")
        assert code == 0
        counts.append(int(out.split()[1]))
    assert sum(counts) == 14
    assert min(counts) > 0
    assert embeddings.open_cache("kept").count == 14


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        ([], 2, "`data embed --config=FILE`"),
        (["more", "--config=config.py"], 2, "`data embed --config=FILE`"),
        (["--config=nowhere.py"], 2, "no config file nowhere.py"),
        (["--config=config.py", "--batch_size=0"], 2, "--batch_size=0"),
        (["--config=config.py", "--shard_index=1"], 1, "the share 1 of 1"),
        (["--config=config.py", "--config.text_encoder.folder=nowhere"], 1, "no text encoder nowhere"),
        (["--config=config.py", "--config.tokenizer.max_length=0"], 1, "max_length is 0"),
        (
            ["--config=config.py", "--config.text_encoder.name=T5Encoder"],
            1,
            "config.text_encoder: T5Encoder learns while",
        ),
        (["--config=config.py", "--config.data.path=nowhere"], 1, "There is no folder nowhere"),
    ],
)
def test_what_is_wrong_is_one_line(data, words, code, line):
    found, _, err = data(*words)
    assert line in err
    assert (found, err.count("\n")) == (code, 1)


def test_an_argument_that_the_encoder_does_not_take(data, tmp_path):
    (tmp_path / "config.py").write_text(CONFIG.replace("max_length", "length"))
    code, _, err = data("--config=config.py")
    assert (code, err) == (
        1,
        "error: config.tokenizer: pretrained takes no argument 'length': did you mean max_length?\n",
    )
