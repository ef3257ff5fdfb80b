"""64-pixel emoji in all six styles, sized for one GPU: 45 million parameters, bfloat16."""

from experiments import base


def get_config():
    config = base.get_config()
    config.data = dict(name="emoji")
    config.resolution = 64
    config.batch_size = 256
    config.text_encoder.update(dict(dim=256, d_kv=64, d_ff=1024, heads=4, layers=4))
    config.denoiser.update(
        dict(
            channels=96,
            multipliers=(1, 2, 4),
            blocks=2,
            self_attention=(16, 8),
            cross_attention=(16, 8),
            dropout=0.1,
            dtype="bfloat16",
        )
    )
    config.schedule = dict(name="cosine")
    config.optimizer.update(dict(learning_rate=3e-4, warmup_steps=1000))
    config.ema_decay = 0.9995
    config.train.update(dict(steps=100_000, validate_every=2000, sample_every=2000, save_every=2000))
    return config
