"""A base model of Imagen's shape for 64 pixels (Saharia et al. 2022): wide, and with text at every small picture.

Imagen's own 64-pixel network has 2 billion parameters and reads T5-XXL; the text encoder here is T5 v1.1 base's shape,
trained from scratch. `--dry_run` shows what it would cost.
"""

from experiments import emoji64


def get_config():
    config = emoji64.get_config()
    config.batch_size = 2048
    config.denoiser.update(
        dict(
            channels=512,
            multipliers=(1, 2, 3, 4),
            blocks=3,
            resample="convolution",
            self_attention=(32, 16, 8),
            cross_attention=(32, 16, 8),
            patch=1,
            remat="nothing_saveable",
        )
    )
    config.text_encoder.update(dict(dim=768, d_kv=64, d_ff=2048, heads=12, layers=12))
    config.tokenizer.max_length = 128
    config.optimizer.update(dict(learning_rate=1e-4, warmup_steps=10_000))
    config.ema_decay = 0.9999
    config.train.update(dict(steps=2_500_000))
    return config
