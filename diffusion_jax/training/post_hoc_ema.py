"""An average of any length, after the training: the combination of stored averages that comes closest to it.

Karras et al. 2024 (EDM2), section 3.2 and appendix C.5. An average after t updates weighs the parameters of time tau by
p(tau) = (gamma + 1) tau^gamma / t^(gamma + 1), up to t. Whatever the parameters were, a sum of averages is the average
whose profile is the sum of theirs, so it is profiles that are fitted, by least squares, and then parameters are summed.

The paper solves for free coefficients, and its code divides them by their sum. Here the sum is 1 from the start: what
is added to the parameters of all times is added to their average, and of the fits that do so this one is the closest.
"""

import os
from typing import NamedTuple

import numpy as np
from flax.traverse_util import unflatten_dict
from jaxtyping import Float64, PyTree

from diffusion_jax.training.ema_snapshots import Snapshot, listed, tensors
from diffusion_jax.training.power_ema import gamma_of

Vector = Float64[np.ndarray, " n"]


class Fit(NamedTuple):
    """How an average is made of stored ones.

    coefficients: what each stored average is multiplied by; the sum is 1.
    error: the distance between the profile that comes out and the one asked for, over the latter's norm. That is also
    the error of the average relative to its own noise, for parameters that are noise around a constant.
    gain: the norm of the coefficients, by which rounding errors of the stored averages are multiplied. Around 1 between
    the stored lengths, it is tens for much shorter ones: these need float32.
    """

    coefficients: Vector
    error: float
    gain: float


class Reconstruction(NamedTuple):
    """params: nested dicts of float32. step, sigma_rel: of the average. fit: how good it is."""

    params: PyTree[np.ndarray]
    step: int
    sigma_rel: float
    fit: Fit


def inner_product(t_a, gamma_a, t_b, gamma_b) -> Float64[np.ndarray, "..."]:
    """The integral of the product of two profiles (Equation 151); arguments broadcast.

    The power is of the ratio of the times, below 1, so nothing overflows.
    """
    t_a, gamma_a, t_b, gamma_b = (np.asarray(value, np.float64) for value in (t_a, gamma_a, t_b, gamma_b))
    early, late = np.minimum(t_a, t_b), np.maximum(t_a, t_b)
    gamma_late = np.where(t_a < t_b, gamma_b, gamma_a)
    height = (gamma_a + 1) * (gamma_b + 1) / (gamma_a + gamma_b + 1) / late
    return np.asarray(height * (early / late) ** gamma_late)


def fit(steps: Vector, gammas: Vector, step: int, gamma: float) -> Fit:
    """The least-squares fit of the profile (step, gamma) by the profiles (steps, gammas), which all differ.

    Minimizes |sum of c_i p_i - p|^2 where the c_i sum to 1. One that is among the stored ones is taken as it is.
    """
    if (same := (steps == step) & (gammas == gamma)).any():
        return Fit(same.astype(np.float64), 0.0, 1.0)
    wanted = inner_product(step, gamma, step, gamma)
    norms = np.sqrt(inner_product(steps, gammas, steps, gammas))
    products = inner_product(steps[:, None], gammas[:, None], steps, gammas) / np.outer(norms, norms)
    targets = inner_product(steps, gammas, step, gamma) / norms
    n = len(steps)  # the profiles have norm 1 by now, for the condition of the equations
    system = np.zeros((n + 1, n + 1))  # that of Lagrange: the last row says that the coefficients sum to 1
    scale = norms.max()
    system[:n, :n], system[n, :n], system[:n, n] = products, scale / norms, scale / norms
    scaled = np.linalg.solve(system, np.append(targets, scale))[:n]
    squared = wanted - 2 * scaled @ targets + scaled @ products @ scaled
    coefficients = scaled / norms
    return Fit(coefficients, float(np.sqrt(max(squared, 0) / wanted)), float(np.linalg.norm(coefficients)))


def reconstruct(
    folder: str | os.PathLike, sigma_rel: float, step: int | None = None, tolerance: float = 0.1
) -> Reconstruction:
    """The average of a relative length after `step` updates, or after those of the last snapshot, from the snapshots.

    The snapshots up to the step are used, and the next one where the step has none of its own; as every profile ends in
    an edge, such an average is a rough one. The files are read once, with one tree in memory, in float64.
    tolerance: the largest `Fit.error` that is taken.
    Raises FileNotFoundError where there are no snapshots; ValueError for a length or a step out of range, for a fit
    beyond the tolerance, and for a snapshot that is damaged, not finite, or of another model.
    """
    gamma, snapshots = gamma_of(sigma_rel), listed(folder)
    step = snapshots[-1].step if step is None else step
    if not 0 < step <= snapshots[-1].step:
        raise ValueError(f"{folder} has no averages of step {step}: its snapshots end at step {snapshots[-1].step}")
    used = [s for i, s in enumerate(snapshots) if i == 0 or snapshots[i - 1].step < step]
    stored = [(snapshot, number) for snapshot in used for number in range(len(snapshot.sigma_rels))]
    steps = np.array([float(snapshot.step) for snapshot, _ in stored])
    gammas = np.array([gamma_of(snapshot.sigma_rels[number]) for snapshot, number in stored])
    found = fit(steps, gammas, step, gamma)
    if not found.error <= tolerance:
        nearest = min(used, key=lambda snapshot: abs(snapshot.step - step)).step
        where = "a length" if nearest == step else f"step {nearest}, which has a snapshot, or a length"
        raise ValueError(
            f"{folder}: {len(used)} snapshots give the average of sigma_rel={sigma_rel} at step {step} with an error "
            f"of {found.error:.1%}, beyond {tolerance:.1%}: ask for {where} nearer to the stored ones, or keep more "
            "snapshots"
        )
    return Reconstruction(_summed(stored, found.coefficients), step, sigma_rel, found)


def _summed(stored: list[tuple[Snapshot, int]], coefficients: Vector) -> PyTree[np.ndarray]:
    total: dict[str, np.ndarray] = {}
    shapes: dict[str, tuple[int, ...]] | None = None
    for (snapshot, number), coefficient in zip(stored, coefficients, strict=True):
        if not coefficient:
            continue
        there = {}
        for name, tensor in tensors(snapshot, number):
            there[name] = tensor.shape
            if shapes is None:
                total[name] = coefficient * tensor
            elif shapes.get(name) == tensor.shape:
                total[name] += coefficient * tensor
        shapes = there if shapes is None else shapes
        if wrong := sorted(name for name in shapes.keys() | there if shapes.get(name) != there.get(name)):
            raise ValueError(
                f"{snapshot.path} is of another model than the snapshots before it: {wrong[0]!r} is "
                f"{there.get(wrong[0], 'missing')} and was {shapes.get(wrong[0], 'absent')}; keep one training a folder"
            )
    return unflatten_dict({name: np.asarray(tensor, np.float32) for name, tensor in total.items()}, sep="/")
