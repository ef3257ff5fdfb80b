"""From an oracle, one that errs by a known amount; from a denoiser, the network that it would be."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from diffusion_jax.diffusion.denoiser import sigma_of
from diffusion_jax.diffusion.guidance import drop
from diffusion_jax.diffusion.keys import for_purpose, normal
from diffusion_jax.diffusion.oracle.law import Oracle, widest
from diffusion_jax.diffusion.parameterization import Parameterization
from diffusion_jax.diffusion.schedules import Schedule
from diffusion_jax.types import Cond, Denoiser, Image, Keys, LogSnr, Network, Scalar


def perturbed(
    oracle: Oracle, std: ArrayLike = 0.0, null_cond: Cond | None = None, probability: ArrayLike = 0.0
) -> Oracle:
    """A worse oracle: exact for the data with normal noise of deviation `std` in them and some of the conds lost.

    It errs as a network of too little capacity or training does, whose density is too wide and which minds its cond too
    little; it is an oracle itself, of another law, so its score is the gradient of its own log_p. Autoguidance (Karras
    et al. 2024) needs two models with the same kind of error, one with more of it: perturb the same oracle twice.
    probability: in [0, 1], with which null_cond, of a batch of one or that of cond, stands in for cond.
    """
    blurred = _blurred(oracle, std)
    return blurred if null_cond is None else _forgetful(blurred, null_cond, probability)


def _blurred(oracle: Oracle, std: ArrayLike) -> Oracle:
    """Noise in the data is noise in x: the law at sigma is that of `oracle` at sqrt(sigma^2 + std^2)."""

    def levels(sigma):
        sigma = sigma.astype(widest(sigma))
        blur = jnp.asarray(std, sigma.dtype)
        return sigma, blur, jnp.hypot(sigma, blur)

    def denoise(x: Image, sigma: Scalar, cond: Cond) -> Image:
        sigma, blur, level = levels(sigma)
        wide = x.astype(widest(x, sigma))
        clean, kept = (jnp.square(part / level).astype(wide.dtype) for part in (sigma, blur))
        return (clean * oracle.denoise(wide, level, cond) + kept * wide).astype(x.dtype)

    def sample(keys: Keys, cond: Cond) -> Image:
        clean = oracle.sample(for_purpose(keys, "oracle within"), cond)
        noise = normal(for_purpose(keys, "oracle blur"), clean.shape[1:], clean.dtype)
        return clean + jnp.asarray(std, clean.dtype) * noise

    return Oracle(
        denoise,
        lambda x, sigma, cond: oracle.score(x, levels(sigma)[2], cond),
        lambda x, sigma, cond: oracle.log_p(x, levels(sigma)[2], cond),
        sample,
    )


def _forgetful(oracle: Oracle, null_cond: Cond, probability: ArrayLike) -> Oracle:
    """The mixture of the law given cond and the law given null_cond."""

    def both(answer, x, sigma, cond):
        """The answer given cond and that given null_cond, in one call."""
        null = jax.tree.map(lambda n, c: jnp.broadcast_to(n, c.shape).astype(c.dtype), null_cond, cond)
        doubled = jax.tree.map(lambda c, n: jnp.concatenate([c, n]), cond, null)
        return jnp.stack(jnp.split(answer(jnp.concatenate([x, x]), sigma, doubled), 2))

    def logs(x, sigma, cond):
        each = both(oracle.log_p, x, sigma, cond)
        lost = jnp.asarray(probability, each.dtype)
        return each + jnp.stack([jnp.log1p(-lost), jnp.log(lost)])[:, None]

    def mean(answer, x, sigma, cond):
        x = x.astype(widest(x, sigma))
        weights = jax.nn.softmax(logs(x, sigma, cond), axis=0)[:, :, None, None, None]
        return jnp.sum(weights * both(answer, x, sigma, cond).astype(weights.dtype), axis=0)

    def log_p(x: Image, sigma: Scalar, cond: Cond) -> LogSnr:
        return jax.nn.logsumexp(logs(x, sigma, cond), axis=0)

    def sample(keys: Keys, cond: Cond) -> Image:
        forgotten = drop(cond, null_cond, probability, for_purpose(keys, "oracle forgets"))
        return oracle.sample(for_purpose(keys, "oracle within"), forgotten)

    return Oracle(
        lambda x, sigma, cond: mean(oracle.denoise, x, sigma, cond).astype(x.dtype),
        lambda x, sigma, cond: mean(oracle.score, x, sigma, cond),
        log_p,
        sample,
    )


def network(denoise: Denoiser, schedule: Schedule, parameterization: Parameterization) -> Network:
    """The network that makes no mistake beyond those of `denoise`: what it would predict of x_t."""

    def predict(x_t: Image, log_snr: LogSnr, cond: Cond) -> Image:
        def of_one(x_t, log_snr, cond):
            alpha_t, sigma_t = schedule.alpha_sigma(log_snr)
            x_0 = denoise(x_t[None] / alpha_t, sigma_of(log_snr), jax.tree.map(lambda c: c[None], cond))[0]
            a, b = parameterization(alpha_t, sigma_t)
            return a * x_0 + b * (x_t - alpha_t * x_0) / sigma_t

        return jax.vmap(of_one)(x_t, log_snr, cond)

    return predict
