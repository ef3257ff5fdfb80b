"""Which sampler needs the fewest network calls? Judged by the exact solution of the ODE.

    python -m experiments.exact.samplers_vs_nfe --out=runs/ablations

Evidence before: on CIFAR-10, by FID, Heun's method is behind Euler's up to 10 calls, iPNDM is first from 3 to 10, and
UniPC and DPM-Solver++(3M) are next from 7 on (Zhou et al. 2024, AMED-Solver: the table of their repository, for which
each sampler had the grid that suits it). Cost: a minute on two cores.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from matplotlib.figure import Figure

from diffusion_jax.diffusion import grids, keys, samplers
from diffusion_jax.diffusion.samplers.adaptive import adaptive
from diffusion_jax.types import Cond
from experiments.exact import drawing

OUT = flags.DEFINE_string("out", "runs/ablations", "Folder of the picture and the table.")
CALLS = (5, 6, 7, 8, 9, 10, 21)
SIGMAS, DRAWN = (0.02, 80.0), 64
SAMPLERS = {
    "euler": samplers.euler,
    "heun": samplers.heun,
    "dpm_2s": samplers.dpm_2s,
    "dpm_3s": samplers.dpm_3s,
    "dpmpp_2m": samplers.dpmpp_2m,
    "dpmpp_3m": samplers.dpmpp_3m,
    "dpmpp_3m as published": partial(samplers.dpmpp_3m, curvature=0.5),
    "unipc": samplers.unipc,
    "deis": samplers.deis,
    "ipndm": samplers.ipndm,
    "lms": samplers.lms,
}


def main(_) -> None:
    data = drawing.shapes()
    given = keys.for_example(jax.random.key(0), 0, DRAWN)
    cond = Cond(jnp.zeros((DRAWN, 1, 1)), jnp.ones((DRAWN, 1), bool))
    x = SIGMAS[1] * keys.normal(given, (drawing.SIDE, drawing.SIDE, 3))
    solve = jax.jit(partial(adaptive, data.denoise, tolerance=1e-5))
    truth = solve(x, jnp.array(SIGMAS[::-1]), cond)
    errors = {}
    for name, sampler in SAMPLERS.items():
        run = jax.jit(partial(sampler, data.denoise))
        for nfe in CALLS:
            if (levels := levels_for(sampler, nfe)) is not None:
                found = run(x, grids.karras(levels, *SIGMAS), cond, given)
                errors[name, nfe] = float(jnp.sqrt(jnp.mean(jnp.square(found - truth))))
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for name in SAMPLERS:
        points = [(nfe, errors[name, nfe]) for nfe in CALLS if (name, nfe) in errors]
        line = "--" if name == "lms" else "-"  # the colors begin anew
        axes.loglog(*np.transpose(points), line, marker="o", markersize=3, label=name)
    axes.set_xticks(CALLS, map(str, CALLS))
    axes.minorticks_off()
    axes.set_xlabel("network calls")
    axes.set_ylabel("error against the exact solution, root mean square")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=9)
    rows = [[name, *(errors.get((name, nfe), "") for nfe in CALLS)] for name in SAMPLERS]
    drawing.write(OUT.value, "samplers_vs_nfe", figure, ["calls", *map(str, CALLS)], rows)


def levels_for(sampler, nfe: int) -> int | None:
    """The levels that cost nfe calls, None where no number of them does."""
    try:
        return samplers.steps_for(sampler, nfe)
    except ValueError:
        return None


if __name__ == "__main__":
    app.run(main)
