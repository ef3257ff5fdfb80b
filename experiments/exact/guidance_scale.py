"""What does more guidance buy, and what does it cost? Alignment against diversity, both exact.

    python -m experiments.exact.guidance_scale --out=runs/ablations

Two classes of points in a plane, on two arcs that meet at one end. The denoiser is that of a network which fits its
data too loosely and now and then forgets the class: the exact one of data with more noise and with some labels lost.
Guided by no class it keeps clear of the other class and loses its own tails; guided by a worse copy of itself it only
comes nearer to its data, which is what Karras et al. (2024) say of autoguidance. Cost: seconds on two cores.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from matplotlib.figure import Figure

from diffusion_jax.diffusion import grids, guidance, keys, oracle, samplers
from diffusion_jax.evaluation.distances import sliced_w2
from diffusion_jax.types import Cond
from experiments.exact import drawing

OUT = flags.DEFINE_string("out", "runs/ablations", "Folder of the picture and the table.")
SCALES = np.array([1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0])
DRAWN, LEVELS, EACH = 4096, 32, 12  # points drawn, the sampler's levels, components of a class


def two_arcs() -> oracle.Oracle:
    """Points as pictures of one pixel and two channels: EACH components on each of two arcs, the classes."""
    angle = np.linspace(0.15, 2.2, EACH)
    arc = np.stack([1 - np.cos(angle), np.sin(angle)], axis=1)
    points = np.concatenate([arc, arc * [-1, 1]])
    return oracle.labeled_mixture(jnp.asarray(points[:, None, None], jnp.float32), 0.08, jnp.ones(2 * EACH))


def of_class(which: int, batch: int) -> Cond:
    """The cond that leaves the components of one class, or of both for 2."""
    kept = np.ones(2 * EACH) if which == 2 else np.repeat(np.arange(2) == which, EACH).astype(float)
    weights = jnp.asarray(kept, jnp.float32)
    return Cond(jnp.broadcast_to(weights, (batch, 1, 2 * EACH)), jnp.ones((batch, 1), bool))


def main(_) -> None:
    data, null = two_arcs(), of_class(2, 1)
    network = oracle.perturbed(data, 0.12, null, 0.1).denoise
    worse = oracle.perturbed(data, 0.3, null, 0.2).denoise
    kinds = {
        "cfg": lambda scale: guidance.cfg(network, null, scale),
        "cfg, 0.2 < sigma <= 2": lambda scale: guidance.within(network, guidance.cfg(network, null, scale), 0.2, 2.0),
        "autoguidance": lambda scale: guidance.autoguidance(network, worse, scale),
    }
    given, cond = keys.for_example(jax.random.key(0), 0, DRAWN), of_class(0, DRAWN)
    sigmas = grids.karras(LEVELS, 0.01, 20.0)
    x = sigmas[0] * keys.normal(given, (1, 1, 2))
    truth = np.asarray(data.sample(keys.for_example(jax.random.key(1), 0, DRAWN), cond))
    spread = truth.reshape(DRAWN, -1).std(0).mean()

    @partial(jax.jit, static_argnums=0)
    @partial(jax.vmap, in_axes=(None, 0))  # all scales in one program
    def draw(kind, scale):
        x_0 = samplers.heun(kind(scale), x, sigmas, cond, given)
        return x_0, jnp.mean(data.log_p(x_0, sigmas[-1], cond) - data.log_p(x_0, sigmas[-1], of_class(2, DRAWN)))

    figure = Figure(figsize=(13, 6.4), layout="constrained")
    (fidelity, trade, own), clouds = figure.subplots(2, 3)
    rows = []
    for (name, kind), cloud in zip(kinds.items(), clouds, strict=True):
        drawn, certain = draw(kind, jnp.asarray(SCALES, jnp.float32))
        alignment = np.asarray(certain) - np.log(2)
        points = np.asarray(drawn).reshape(len(SCALES), DRAWN, 2)
        diversity = points.std(1).mean(1) / spread
        far = [sliced_w2(each, truth.reshape(DRAWN, 2)) for each in points]
        rows += [
            [name, float(s), float(a), float(d), float(w.value), float(w.standard_error)]
            for s, a, d, w in zip(SCALES, alignment, diversity, far, strict=True)
        ]
        fidelity.errorbar(SCALES, [w.value for w in far], [2 * w.standard_error for w in far], label=name, marker=".")
        trade.plot(diversity, alignment, marker=".", label=name)
        own.plot(SCALES, diversity, marker=".", label=name)
        cloud.scatter(*truth.reshape(DRAWN, 2)[:600].T, s=3, color="#cccccc")
        cloud.scatter(*points[5][:600].T, s=3)
        cloud.set_title(f"{name}, scale {SCALES[5]:g}; gray: the class", fontsize=10)
        cloud.set(xlim=(-1.4, 2.2), ylim=(-0.4, 1.6), aspect="equal")
    for axes, title, across in (
        (fidelity, "squared distance to the class (sliced W2)", "scale"),
        (trade, "alignment, mean log p(class | x)", "diversity, in that of the class"),
        (own, "diversity, in that of the class", "scale"),
    ):
        axes.set_title(title, fontsize=10)
        axes.set_xlabel(across)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, fontsize=9)
    header = ["guidance", "scale", "log p(class | x)", "diversity", "sliced W2", "its standard error"]
    drawing.write(OUT.value, "guidance_scale", figure, header, rows)


if __name__ == "__main__":
    app.run(main)
