"""Which noise schedule, with which prediction? Schedules as papers train them, with the plain loss on v.

A network is told log_snr and is sampled on one grid here, so a schedule decides one thing: at which levels it learns,
how often. The arms are cosine (Nichol and Dhariwal 2021), DDPM's linear beta (Ho et al. 2020), the straight line of
rectified flow with times uniform (Liu et al. 2023) or logit-normal (SD3, Esser et al. 2024), and EDM's log-normal law
of sigma (Karras et al. 2022). Each of them once with v and once with eps.

Known: SD3 finds rectified flow with logit-normal times ahead of 60 others, in thousands of steps of large networks.

    diffusion-jax sweep experiments/ablations/noise_schedule.py
"""

from experiments import shapes16

LAWS = {
    "cosine": {},
    "linear_beta": dict(schedule=dict(name="linear_beta")),
    "rf": dict(schedule=dict(name="rectified_flow")),
    "rf_logit_normal": dict(schedule=dict(name="rectified_flow"), noise_levels=dict(name="logit_normal")),
    "edm": dict(noise_levels=dict(name="log_normal", mean=-1.2, std=1.2)),
}


def get_config(preset="cpu"):
    return shapes16.get_config(preset)


def sweep(add):
    for prediction in ("v", "eps"):
        for law, entries in LAWS.items():
            add(f"{law}-{prediction}", entries, parameterization=dict(name=f"{prediction}_prediction"))
