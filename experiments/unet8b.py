"""UNets of Stable Diffusion's sizes on 64 x 64 pixels, as large as its latents of 512-pixel pictures are: to plan with.

8 billion parameters are Stable Diffusion 3's (Esser et al. 2024), a transformer; here they are a UNet's. The size
`sd1` has the widths, levels and attention of Stable Diffusion 1 (Rombach et al. 2022, 860 million parameters) without
the feed-forward layers beside its attention, which leaves 688 million. A text encoder of T5 v1.1 base's shape, trained
as well, stands for the frozen ones that these models read by. `diffusion-jax plan` shows what they would cost.
"""

from experiments import imagen64


def get_config(size: str = "8b"):
    config = imagen64.get_config()
    config.tokenizer.max_length = 77
    if size == "8b":
        config.denoiser.channels = 1024
        config.parallel.mesh.fsdp = 32
    elif size == "sd1":
        attention = (64, 32, 16)
        config.denoiser.update(dict(channels=320, multipliers=(1, 2, 4, 4), blocks=2, head_dim=40, remat=None))
        config.denoiser.update(dict(self_attention=attention, cross_attention=attention))
        config.train.steps = 237_000 + 194_000 + 515_000 + 195_000  # of its model card, the first at 256 pixels
    else:
        raise ValueError(f"no size {size!r} for this config: choose 8b or sd1")
    return config
