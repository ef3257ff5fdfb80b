"""Six minutes on two cores: 16-pixel emoji of two styles whose names are hearts, circles, fruit, faces and flags.

What the minutes buy was tried out: few pictures, a small network on 2 x 2 patches, bytes read by two layers of T5. A
network that predicts the picture listens better than one that predicts v: at the same seed, wrong captions changed the
error on held-out concepts by +0.040 +- 0.009 instead of +0.017 +- 0.007.
"""

from experiments import base

SUBJECTS = (
    "heart", "circle", "square", "apple", "banana", "cherries", "grapes", "lemon", "strawberry", "tangerine", "pear",
    "face", "flag", "moon", "sun", "star", "flower", "rose", "tulip", "book", "egg", "cat", "dog",
)  # fmt: skip


def get_config():
    config = base.get_config()
    config.data = dict(name="emoji", styles=("noto", "fluent-flat"), labels=SUBJECTS)
    config.resolution = 16
    config.parameterization = dict(name="x0_prediction")
    config.weighting = dict(name="clipped_v", gamma=10.0)
    config.tokenizer.max_length = 40
    config.text_encoder.update(dict(dim=128, d_ff=256, heads=4))
    config.denoiser.update(
        dict(channels=48, multipliers=(1, 2), resample="convolution", self_attention=(4,), cross_attention=(4,))
    )
    config.optimizer.update(dict(learning_rate=2e-3, warmup_steps=100, decay_steps=1000))
    config.ema_decay = 0.995
    config.train.update(dict(steps=1000, log_every=25, validate_every=250, sample_every=250, save_every=250))
    config.sampling.prompts = (
        "red heart, noto style", "blue heart, noto style", "green heart, fluent flat style",
        "red apple, noto style", "green apple, noto style", "grinning face, fluent flat style",
        "crescent moon, noto style", "yellow circle, noto style",
    )  # fmt: skip
    return config
