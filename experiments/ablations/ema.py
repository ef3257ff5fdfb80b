"""How long should the average of the parameters be?

Known: Karras et al. (2024, EDM2) find the best length to depend on guidance, training and network, and to be narrow.

    diffusion-jax sweep experiments/ablations/ema.py
"""

from experiments import shapes16


def get_config(preset="cpu"):
    return shapes16.get_config(preset)


def sweep(add):
    for decay in (0.0, 0.9, 0.97, 0.99, 0.997):
        add(f"decay-{decay:g}", ema_decay=decay)
