"""What is worth more: a larger network, more pictures, or more steps? Each doubled and doubled again, all by all.

Known: of large models the best network grows with the compute (Hoffmann et al. 2022 for language; Peebles and Xie 2023
for DiT, whose FID follows the FLOP). Here compute is steps x size, so read the Pareto plot rather than the pairs.

    diffusion-jax sweep experiments/ablations/scaling.py --seeds=3

Cost of the cpu preset: the largest network's longest training takes most of it.
"""

from experiments import shapes16

SIZES = dict(cpu=(8, 16, 32), full=(32, 64, 128))


def get_config(preset="cpu"):
    config = shapes16.get_config(preset)
    config.figures = (dict(name="held_out"), dict(name="pixels"), dict(name="alignment"))
    config.label = preset
    return config


def sweep(add):
    for channels in (8, 16, 32):
        for pictures in (250, 1_000_000):
            for steps in (200, 600):
                config = shapes16.get_config()
                shapes16.train_for(config, steps)
                add(
                    f"channels{channels}-pictures{pictures}-steps{steps}",
                    {"data.count": pictures, "denoiser.channels": channels, "optimizer.decay_steps": steps},
                    train=config.train.to_dict(),
                )
