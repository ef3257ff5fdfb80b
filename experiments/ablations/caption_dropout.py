"""How often should a caption be left out in training, where guidance draws?

Known: Ho and Salimans (2022) find 0.1 and 0.2 about as good, and 0.5 worse. Without any, guidance asks the network for
pictures of the empty caption, which it has never seen.

    diffusion-jax sweep experiments/ablations/caption_dropout.py
"""

from experiments import shapes16


def get_config(preset="cpu"):
    config = shapes16.get_config(preset)
    config.figures = (dict(name="alignment"), dict(name="pixels"), dict(name="held_out"))
    return config


def sweep(add):
    for share in (0.0, 0.05, 0.1, 0.2, 0.5):
        add(f"drop-{share:g}", caption_dropout=share)
