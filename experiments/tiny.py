"""Seconds on a laptop: colored shapes of 16 pixels and a very small network. For tests and first steps."""

from experiments import base


def get_config():
    config = base.get_config()
    config.data = dict(name="shapes", size=16)
    config.resolution = 16
    config.batch_size = 16
    config.validation_size = 32
    config.tokenizer.max_length = 40
    config.text_encoder.update(dict(dim=32, d_kv=16, d_ff=64, heads=2, layers=1))
    config.denoiser.update(dict(channels=16, multipliers=(1, 2), self_attention=(4,), cross_attention=(4,)))
    config.optimizer.warmup_steps = 10
    config.train.update(dict(steps=60, log_every=10, validate_every=30, sample_every=30, save_every=20))
    config.sampling.update(dict(nfe=4, prompts=("a small red circle", "two blue squares")))
    return config
