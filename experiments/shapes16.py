"""Colored shapes of 16 pixels, small enough to be trained five times over: what the ablations start from.

The cpu preset is 600 steps of 32 pictures. That is little: pictures have colors and something like shapes, and few are
what a whole caption says, so captions are judged by their parts. The full preset has 20,000 steps of 128.
"""

from experiments import tiny


def get_config(preset: str = "cpu"):
    config = tiny.get_config()
    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup_steps = 50
    config.batch_size, config.ema_decay, config.validation_size = 32, 0.99, 512
    train_for(config, 600)
    if preset == "full":
        config.batch_size, config.ema_decay, config.validation_size = 128, 0.999, 2048
        config.denoiser.update(dict(channels=64, multipliers=(1, 2, 2)))
        train_for(config, 20_000)
    config.sampling.update(dict(nfe=16, cfg_scale=2.0))
    config.sampling.prompts = (
        "a red circle", "a blue square", "a green triangle", "two yellow circles", "a red square left of a blue circle",
        "a small purple triangle",
    )  # fmt: skip
    config.figures = (dict(name="pixels"), dict(name="alignment"), dict(name="held_out"))
    return config


def train_for(config, steps: int) -> None:
    """Set the length of a training, and how often it is looked at: three times, and once in pictures."""
    config.optimizer.decay_steps = steps
    config.train.update(
        dict(steps=steps, log_every=20, validate_every=steps // 3, sample_every=steps, save_every=steps // 2)
    )
