"""At which levels should it learn? One schedule, one weighting of the error, other laws of the levels drawn.

Known: VDM (Kingma et al. 2021) takes levels stratified over a batch, for a loss that scatters less. SD3 (Esser et al.
2024) finds a logit-normal law of t better than a uniform one, and the mode law nearly as good.

    diffusion-jax sweep experiments/ablations/noise_levels.py
"""

from experiments import shapes16


def get_config(preset="cpu"):
    return shapes16.get_config(preset)


def sweep(add):
    add("uniform")
    add("stratified", noise_levels=dict(name="stratified"))
    for mean in (-0.5, 0.0, 0.5):
        add(f"logit_normal{mean:+g}", noise_levels=dict(name="logit_normal", mean=mean))
    add("mode", noise_levels=dict(name="mode"))
