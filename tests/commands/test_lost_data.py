"""Pictures that vanish while a real process trains on them."""

import numpy as np
import pytest
from PIL import Image

from diffusion_jax.training import checkpoint
from tests.commands.test_train import last_logged, launched, until

PICTURES = """
import importlib.util
from ml_collections import ConfigDict

def get_config():
    spec = importlib.util.spec_from_file_location("mini", {mini!r})
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    config.data = ConfigDict(dict(name="folder", path={pictures!r}, held_out=0.2))
    config.loader.cache_bytes = 0  # or they are all in memory
    config.train.update(dict(steps=100_000, validate_every=0, sample_every=0, save_every=5))
    return config
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["gone", "cut"])
def test_a_training_whose_pictures_vanish_ends_with_one_line(mini, tmp_path, alone, how):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(40):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("noise")
    config, run = tmp_path / "pictures.py", tmp_path / "run"
    config.write_text(PICTURES.format(mini=str(mini), pictures=str(folder)))
    with launched(config, run, alone) as process:
        until(lambda: last_logged(run) >= 6, process)
        for picture in folder.glob("*.png"):
            if how == "gone":
                picture.unlink()
            else:
                picture.write_bytes(picture.read_bytes()[:400])
        _, err = process.communicate(timeout=300)
    assert process.returncode == 1
    assert err.startswith("error: ")
    assert f"{folder}/" in err
    assert err.count("\n") == 1
    assert checkpoint.steps_in(run / "checkpoints")
