"""Which guidance, how much of it, and between which levels? One training a seed, drawn with in many ways.

Known: Ho and Salimans (2022) trade diversity for alignment by the scale. Kynkäänniemi et al. (2024) guide at middle
levels alone, and find that better and cheaper. APG (Sadat et al. 2024) takes away what saturates colors. CFG-Zero*
(Fan et al. 2025) scales the unguided answer to fit.

What decides is whether pictures are as their captions say; the distance of pixels tells what that costs.

    diffusion-jax sweep experiments/ablations/guidance.py
"""

from experiments import shapes16

KINDS = {
    "cfg": dict(name="cfg"),
    "middle": dict(name="within", sigma_lo=0.3, sigma_hi=5.0),
    "apg": dict(name="apg", eta=0.5),
    "zero_star": dict(name="cfg_zero_star"),
}


def get_config(preset="cpu"):
    config = shapes16.get_config(preset)
    if preset == "cpu":
        shapes16.train_for(config, 1500)  # guidance is of no use to a network that does not listen
    config.figures = (dict(name="alignment", part="color"), dict(name="pixels"))
    return config


def sweep(add):
    add("none", sampling=dict(cfg_scale=1.0))
    for scale in (1.5, 2.0, 3.0, 5.0):
        for kind, entry in KINDS.items():
            add(f"{kind}-{scale:g}", sampling=dict(cfg_scale=scale, guidance=entry))
