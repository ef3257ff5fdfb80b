"""ADM's network for 64 pixels, 296 million parameters (Dhariwal & Nichol 2021), with the text where it had the class.

The text enters through the condition vector alone, so the network is ADM's to the block: a yardstick for speed.
"""

from experiments import emoji64


def get_config():
    config = emoji64.get_config()
    config.denoiser.update(
        dict(channels=192, multipliers=(1, 2, 3, 4), blocks=3, self_attention=(32, 16, 8), cross_attention=(), patch=1)
    )
    config.text_encoder.update(dict(dim=768, d_kv=64, d_ff=2048, heads=12, layers=6))
    config.optimizer.update(dict(learning_rate=1e-4, warmup_steps=0, weight_decay=0.05))
    config.ema_decay = 0.9999
    return config
