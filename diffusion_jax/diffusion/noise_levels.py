"""At which noise levels is the network trained? (keys, schedule) -> one log_snr for each example.

Where the levels are dense, the loss counts more: this and `weighting` are two hands on one lever.
"""

from jax.nn import sigmoid
from jax.typing import ArrayLike

from diffusion_jax.diffusion.keys import normal
from diffusion_jax.diffusion.keys import uniform as uniform_numbers
from diffusion_jax.diffusion.schedules import Schedule
from diffusion_jax.types import Keys, LogSnr


def uniform(keys: Keys, schedule: Schedule) -> LogSnr:
    """t uniform in [0, 1): the schedule decides where the levels lie."""
    return schedule.log_snr(uniform_numbers(keys))


def log_normal(keys: Keys, schedule: Schedule, mean: ArrayLike = -1.2, std: ArrayLike = 1.2) -> LogSnr:
    """log(sigma) normal, whatever the schedule; the default is EDM's, for data of standard deviation 0.5."""
    return -2 * (mean + std * normal(keys, ()))


def logit_normal(keys: Keys, schedule: Schedule, mean: ArrayLike = 0.0, std: ArrayLike = 1.0) -> LogSnr:
    """log(t / (1 - t)) normal: the middle of the schedule more often than its ends (Stable Diffusion 3).

    On an uncut straight line t / (1 - t) is sigma, so there this is `log_normal`.
    """
    return schedule.log_snr(sigmoid(mean + std * normal(keys, ())))
