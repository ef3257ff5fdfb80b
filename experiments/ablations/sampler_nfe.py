"""Which sampler, for how many network calls? Nothing is trained: the shipped weights draw, each seed from other noise.

What decides is how far the pictures are from the exact solution of the ODE that starts at the same noise, which a long
run of Heun's method stands for. It says nothing of whether those pictures are good; in the full preset the features
beside it say that.

Known: on CIFAR-10, by FID, Heun's method is behind Euler's up to 10 calls; multistep methods need the fewest (Zhou et
al. 2024, AMED-Solver: the table of their repository).

    diffusion-jax data build emoji
    diffusion-jax sweep experiments/ablations/sampler_nfe.py
"""

from diffusion_jax import pretrained

SAMPLERS = ("euler", "heun", "dpmpp_2m", "dpmpp_3m", "unipc", "deis")


def get_config(preset="cpu"):
    config = pretrained.load("emoji")[0]
    with config.unlocked():
        config.begin = "emoji"
        config.train.steps = 0
        config.validation_size = dict(cpu=32, full=1024)[preset]
        config.figures = (dict(name="solved"),) + (dict(name="features"),) * (preset == "full")
    config.sampling.update(dict(cfg_scale=2.0))
    config.sampling.prompts = config.sampling.prompts[:6]
    return config


def sweep(add):
    for nfe in (7, 11, 21):
        for name in SAMPLERS:
            add(f"{name}-{nfe}", sampling=dict(nfe=nfe, sampler=dict(name=name)))
