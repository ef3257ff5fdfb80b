"""Which prediction? The network says what the noise is, or the picture, or v, or the flow; all else is shared.

The loss is one for all, a weighted error in eps. By `min_snr` it asks no arm for digits at either end: min(1, 5 / SNR)
of the error in eps is min(SNR, 5) of that in the picture.

Known: DDPM (Ho et al. 2020) predicts eps. Salimans and Ho (2022) find eps unfit for distillation into a few steps, and
predict the picture, both, or v = alpha_t eps - sigma_t x_0. Rectified flow and SD3 (Esser et al. 2024) predict
eps - x_0. Given x_t, each is a linear function of each other, so with a perfect network nothing would differ.

The held-out error of a run is in the picture, at log_snr down to -6, where an error in eps counts 403 times: compare it
level by level.

    diffusion-jax sweep experiments/ablations/prediction.py

Cost of the cpu preset: on two cores, with other work at a load of 7 beside it, a run of v took 35 s, and 22 s of
processor time; 20 runs with 5 seeds would be 12 minutes. At a load of 12 runs took 100 to 160 s. The full preset was
not run.
"""

from experiments import tiny

STEPS = dict(cpu=300, full=20_000)


def get_config(preset="cpu"):
    config, steps = tiny.get_config(), STEPS[preset]
    config.weighting = dict(name="min_snr", gamma=5.0)
    config.optimizer.update(dict(learning_rate=2e-3, warmup_steps=50, decay_steps=steps))
    config.ema_decay = 0.99
    config.train.update(
        dict(steps=steps, log_every=20, validate_every=steps // 3, sample_every=steps, save_every=steps // 3)
    )
    config.validation_size = 256
    if preset == "full":
        config.batch_size, config.validation_size, config.ema_decay = 128, 2048, 0.999
        config.denoiser.update(dict(channels=64, multipliers=(1, 2, 2)))
    return config


def sweep(add):
    for name in ("eps", "x0", "v", "flow"):
        add(name, parameterization=dict(name=f"{name}_prediction"))
