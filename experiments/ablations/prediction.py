"""Which prediction? The network says what the noise is, or the picture, or v, or the flow; all else is shared.

The loss is one for all, a weighted error in eps. By `min_snr` it asks no arm for digits at either end: min(1, 5 / SNR)
of the error in eps is min(SNR, 5) of that in the picture.

Known: DDPM (Ho et al. 2020) predicts eps. Salimans and Ho (2022) find eps unfit for distillation into a few steps, and
predict the picture, both, or v = alpha_t eps - sigma_t x_0. Rectified flow and SD3 (Esser et al. 2024) predict
eps - x_0. Given x_t, each is a linear function of each other, so with a perfect network nothing would differ.

What decides is how far the pixels of drawn pictures are from real ones, as a law. The error in v would be unfair: at
log_snr -6 an error in eps counts 400 times in it.

    diffusion-jax sweep experiments/ablations/prediction.py
"""

from experiments import shapes16


def get_config(preset="cpu"):
    config = shapes16.get_config(preset)
    config.weighting = dict(name="min_snr", gamma=5.0)
    return config


def sweep(add):
    for name in ("eps", "x0", "v", "flow"):
        add(name, parameterization=dict(name=f"{name}_prediction"))
