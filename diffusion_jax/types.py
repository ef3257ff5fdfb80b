"""The notation, written once: what every array and every function of the package is.

Training speaks x_t = alpha_t x_0 + sigma_t eps, with noise levels as log_snr = 2 log(alpha_t / sigma_t).
Sampling speaks x = x_t / alpha_t = x_0 + sigma eps, with sigma = sigma_t / alpha_t = exp(-log_snr / 2).
Only `diffusion/denoiser.py` knows both.
"""

from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Array, Bool, Float, Key, PyTree

Image = Float[Array, "batch height width channel"]  # NHWC; data lies in [-1, 1]
LogSnr = Float[Array, " batch"]
Scalar = Float[Array, ""]
Sigmas = Float[Array, " n"]  # strictly decreasing, positive; samplers end with one denoise
Keys = Key[Array, " batch"]  # one random key for each example: results do not depend on devices or batch size
Params = PyTree[Array]


class Cond(NamedTuple):
    """What a picture is conditioned on: embedded text, and which of its positions hold text."""

    text_emb: Float[Array, "batch length dim"]
    text_mask: Bool[Array, "batch length"]


@runtime_checkable
class Network(Protocol):
    """A denoising network with its parameters bound; it is told log_snr, never a step index."""

    def __call__(self, x_t: Image, log_snr: LogSnr, cond: Cond) -> Image: ...


@runtime_checkable
class Denoiser(Protocol):
    """E[x_0 | x] for x = x_0 + sigma eps; one sigma for the whole batch."""

    def __call__(self, x: Image, sigma: Scalar, cond: Cond) -> Image: ...


@runtime_checkable
class Sampler(Protocol):
    """From x at sigmas[0] to a picture; a deterministic sampler ignores the keys.

    One that a config names also takes trace=True, and returns (picture, (xs, estimates)); see `diffusion/samplers.py`.
    """

    def __call__(self, denoise: Denoiser, x: Image, sigmas: Sigmas, cond: Cond, keys: Keys) -> Image: ...
