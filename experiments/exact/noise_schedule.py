"""Which noise schedule? What it does to sampling and to the noise of the training loss, both exact.

    python -m experiments.exact.noise_schedule --out=runs/ablations

A network is told log_snr, so a schedule does two things alone: its time spaces the sampler's levels, if the grid is
even in it, and it says at which levels the loss is measured. The loss here is that of the ELBO, which is the same for
all (VDM, Kingma et al. 2021): only how much it scatters from example to example differs, so much for Laplace's that
the mean of 2,048 examples, and its standard error, say nothing. Cost: a minute on two cores.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from matplotlib.figure import Figure

from diffusion_jax.diffusion import grids, keys, loss, noise_levels, oracle, samplers, schedules, weighting
from diffusion_jax.diffusion.denoiser import sigma_of
from diffusion_jax.diffusion.parameterization import v_prediction
from diffusion_jax.diffusion.samplers.adaptive import adaptive
from diffusion_jax.types import Cond
from experiments.exact import drawing

OUT = flags.DEFINE_string("out", "runs/ablations", "Folder of the picture and the table.")
ENDS = dict(log_snr_min=-8.0, log_snr_max=8.0)  # of all: sigma from 54.6 to 0.018
CALLS, SAMPLED, TRAINED = (8, 12, 20, 32), 64, 2048
SCHEDULES = {
    "cosine": schedules.cosine,
    "linear_beta": partial(schedules.truncated, schedules.linear_beta()),
    "sigmoid": schedules.sigmoid,
    "rectified_flow": schedules.rectified_flow,
    "log_linear": schedules.log_linear,
    "laplace": schedules.laplace,
    "edm": partial(schedules.truncated, schedules.edm()),
}


def main(_) -> None:
    data = drawing.shapes()
    cond = Cond(jnp.zeros((SAMPLED, 1, 1)), jnp.ones((SAMPLED, 1), bool))
    given = keys.for_example(jax.random.key(0), 0, SAMPLED)
    high, low = sigma_of(jnp.array([ENDS["log_snr_min"], ENDS["log_snr_max"]]))
    x = high * keys.normal(given, (drawing.SIDE, drawing.SIDE, 3))
    truth = jax.jit(partial(adaptive, data.denoise, tolerance=1e-5))(x, jnp.stack([high, low]), cond)
    sample = jax.jit(partial(samplers.dpmpp_2m, data.denoise))
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    curves, errors, scatter = figure.subplots(1, 3)
    rows = []
    for name, make in SCHEDULES.items():
        schedule = make(**ENDS)
        found = [sample(x, grids.uniform_t(n, low, high, schedule), cond, given) for n in CALLS]
        error = [float(jnp.sqrt(jnp.mean(jnp.square(each - truth)))) for each in found]
        each = np.asarray(jax.jit(partial(losses, data, schedule))())
        mean, deviation = float(each.mean()), float(each.std())
        rows.append([name, *error, mean, deviation / TRAINED**0.5, deviation / mean])
        t = np.linspace(0, 1, 101)
        curves.plot(t, schedule.log_snr(jnp.asarray(t, jnp.float32)), label=name)
        errors.loglog(CALLS, error, marker=".", label=name)
    scatter.barh(list(SCHEDULES), [row[-1] for row in rows])
    scatter.set_title("scatter of the loss between examples, in its mean", fontsize=10)
    curves.set_title("log_snr over t", fontsize=10)
    errors.set_title("dpmpp_2m on levels even in t: error over calls", fontsize=10)
    errors.set_xticks(CALLS, map(str, CALLS))
    errors.minorticks_off()
    for axes in (curves, errors):
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, fontsize=9)
    header = ["schedule", *(f"error, {n} calls" for n in CALLS), "ELBO loss, nats", "its standard error", "scatter"]
    drawing.write(OUT.value, "noise_schedule", figure, header, rows)


def losses(data: oracle.Oracle, schedule: schedules.Schedule):
    """The diffusion loss of the ELBO of many examples, in nats each, for a network without error."""
    given = keys.for_example(jax.random.key(1), 0, TRAINED)
    cond = Cond(jnp.zeros((TRAINED, 1, 1)), jnp.ones((TRAINED, 1), bool))
    x_0 = data.sample(given, cond)
    log_snr = noise_levels.uniform(keys.for_purpose(given, "level"), schedule)
    eps = keys.normal(keys.for_purpose(given, "noise"), x_0.shape[1:])
    network = oracle.network(data.denoise, schedule, v_prediction)
    error = loss.eps_error(network, x_0, eps, log_snr, cond, schedule=schedule, parameterization=v_prediction)
    return weighting.elbo(log_snr, schedule) * error * x_0[0].size


if __name__ == "__main__":
    app.run(main)
