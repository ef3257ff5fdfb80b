"""Does anything differ where nothing does? Two arms of one config: what is reported of them is an error of the report.

Run k of both arms has the same seed, so both learn the same numbers, bit for bit on one kind of device; a report that
finds one better is wrong. They differ in `label`, which nothing reads: without it they would be one run.

    diffusion-jax sweep experiments/ablations/null.py

Cost: that of two arms of `prediction`.
"""

from experiments.ablations import prediction


def get_config(preset="cpu"):
    config = prediction.get_config(preset)
    config.label = ""
    return config


def sweep(add):
    add("one", label="one")
    add("other", label="other")
