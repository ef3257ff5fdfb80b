"""Your own noise schedule in one file: the idea, and the experiment that tries it. Nothing else has to change.

diffusion-jax train --config=experiments/own_schedule.py --workdir=runs/own --config.schedule.power=0.8
"""

from diffusion_jax.diffusion import schedules
from experiments import tiny


def cosine_of_power(power: float = 1.5) -> schedules.Schedule:
    """alpha_t = cos(pi t^power / 2): above 1 the pictures stay clear for longer than under the cosine schedule."""
    cosine = schedules.cosine()
    return cosine._replace(
        log_snr=lambda t: cosine.log_snr(t**power),
        t=lambda log_snr: cosine.t(log_snr) ** (1 / power),
    )


def get_config():
    config = tiny.get_config()
    config.schedule = dict(name="experiments.own_schedule:cosine_of_power", power=1.5)
    return config
