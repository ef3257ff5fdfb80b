"""Which weighting of the loss over levels? All predict v on a cosine schedule; the weights act on the error in eps.

Known: Min-SNR (Hang et al. 2023) reports that its weights make a training 3.4 times as fast; Kingma and Gao (2023) find
monotonic ones, such as sigmoid, as good as any.

    diffusion-jax sweep experiments/ablations/weighting.py
"""

from experiments import shapes16


def get_config(preset="cpu"):
    return shapes16.get_config(preset)


def sweep(add):
    add("v")  # the plain loss on v
    add("eps", weighting=dict(name="constant"))
    for gamma in (1.0, 5.0, 20.0):
        add(f"min_snr-{gamma:g}", weighting=dict(name="min_snr", gamma=gamma))
    add("sigmoid", weighting=dict(name="sigmoid", bias=2.0))
    add("p2", weighting=dict(name="p2"))
