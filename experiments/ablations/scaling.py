"""What is worth more: a larger network, more pictures, or more steps? All by all.

Known: of large models the best network grows with the compute (Hoffmann et al. 2022 for language; Peebles and Xie 2023
for DiT, whose FID follows the FLOP). Here compute is steps x size, so read the Pareto plot rather than the pairs.

    diffusion-jax sweep experiments/ablations/scaling.py --seeds=3

Cost: not measured; the largest network's longest trainings take most of it.
"""

from experiments import shapes16

SIZES = dict(cpu=(8, 16, 32), full=(32, 64, 128))
STEPS = dict(cpu=(200, 600), full=(5_000, 20_000))


def get_config(preset="cpu"):
    config = shapes16.get_config(preset)
    config.figures = (dict(name="held_out"), dict(name="pixels"), dict(name="alignment"))
    return config


def sweep(add, preset="cpu"):
    for channels in SIZES[preset]:
        for pictures in (250, 1_000_000):
            for steps in STEPS[preset]:
                config = shapes16.get_config(preset)
                shapes16.train_for(config, steps)
                add(
                    f"channels{channels}-pictures{pictures}-steps{steps}",
                    {"data.count": pictures, "denoiser.channels": channels, "optimizer.decay_steps": steps},
                    train=config.train.to_dict(),
                )
