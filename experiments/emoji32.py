"""32-pixel emoji in the four permissively licensed styles, sized for laptop cores.

6 million parameters on 4 x 4 patches, so that a forward pass of one picture is 0.2 GFLOP. A patch is 48 numbers, and 64
channels are too narrow a door for 48 numbers of noise, so the network predicts the picture, which is simpler (Li and He
2025, Back to Basics: Let Denoising Generative Models Denoise). After 500 steps of it the error was smaller than after
1,000 with v-prediction.
"""

from experiments import base


def get_config():
    config = base.get_config()
    config.data = dict(name="emoji", styles=("noto", "fluent-flat", "fluent", "fluent-3d"))
    config.resolution = 32
    config.parameterization = dict(name="x0_prediction")
    config.weighting = dict(name="clipped_v", gamma=10.0)
    config.tokenizer.max_length = 40
    config.text_encoder.update(dict(dim=128, d_ff=256, heads=4))
    config.denoiser.update(
        dict(
            channels=64,
            multipliers=(1, 3),
            resample="convolution",
            self_attention=(4,),
            cross_attention=(8, 4),
            patch=4,
        )
    )
    config.optimizer.update(dict(learning_rate=1e-3, warmup_steps=300))
    config.train.update(dict(steps=100_000, log_every=100, validate_every=1000, sample_every=1000, save_every=500))
    config.sampling.prompts = (
        "red heart, noto style", "blue heart, fluent flat style", "green apple, noto style",
        "red apple, fluent 3d style", "grinning face, fluent style", "crescent moon, noto style",
        "cat face, fluent 3d style", "sunflower, fluent flat style", "yellow circle, noto style",
        "flag: Japan, noto style", "house, fluent style", "snowman, fluent 3d style",
    )  # fmt: skip
    return config
