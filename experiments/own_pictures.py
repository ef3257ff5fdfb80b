"""Your own pictures: a folder with captions, read as `diffusion-jax data show FOLDER` shows it.

diffusion-jax train --config=experiments/own_pictures.py --config.data.path=FOLDER --workdir=runs/mine
"""

from experiments import emoji32


def get_config():
    config = emoji32.get_config("bytes")
    config.tokenizer.max_length = 96  # bytes; a training says how many captions are longer
    config.data = dict(name="folder", path="my_pictures", held_out=0.05)
    config.sampling.prompts = ("a cat",)
    return config
