"""What is compared with what? Guidance goes from one denoiser's answer past another's."""

from collections.abc import Callable, Sequence

from jaxtyping import Array, Float

from diffusion_jax.diffusion.guidance.conditions import in_one_call, of_batch
from diffusion_jax.diffusion.guidance.scales import Scale, at
from diffusion_jax.types import Cond, Denoiser, Image, Scalar


def cfg(denoise: Denoiser, null_cond: Cond, scale: Scale) -> Denoiser:
    """Classifier-free guidance, D(null) + scale (D(cond) - D(null)), in one call on a doubled batch.

    Scale 1 is no guidance and 0 is no text (Ho and Salimans 2022, equation 6, whose weight is one less).
    """

    def guided(x: Image, sigma: Scalar, cond: Cond) -> Image:
        with_text, without = in_one_call(denoise, x, sigma, [cond, null_cond])
        return with_text + (at(scale, sigma, x) - 1) * (with_text - without)

    return guided


def autoguidance(denoise: Denoiser, weaker: Denoiser, scale: Scale) -> Denoiser:
    """Away from a weaker denoiser, W + scale (D - W), in a call of each (Karras et al. 2024, equation 3).

    They take a smaller or less trained network, which is given the same text. With `without_text(denoise, ...)` this is
    `cfg`; with `weakened` it is perturbed-attention guidance (Ahn et al. 2024) or skip-layer guidance.
    """

    def guided(x: Image, sigma: Scalar, cond: Cond) -> Image:
        better = denoise(x, sigma, cond)
        return better + (at(scale, sigma, x) - 1) * (better - weaker(x, sigma, cond))

    return guided


def composed(
    denoise: Denoiser,
    null_cond: Cond,
    scale: Scale,
    others: Sequence[Cond],
    weights: Sequence[Scale] | Float[Array, " k"],
) -> Denoiser:
    """`cfg` with k more texts, each with a weight: positive is AND, negative is NOT (Liu et al. 2022).

        D(null) + scale (D(cond) - D(null)) + sum_i weight_i (D(other_i) - D(null))

    in one call on k + 2 times the batch: the D of p(x) p(text | x)^scale prod_i p(text_i | x)^weight_i, all of pictures
    with this noise. Of a weight 0 is none, unlike the 1 of a scale. Each of `others` has a batch of one, or that of
    cond. Raises ValueError unless there are as many weights.
    """
    weights = list(weights)
    if len(weights) != len(others):
        raise ValueError(f"{len(others)} other conditions but {len(weights)} weights: give each its own")

    def guided(x: Image, sigma: Scalar, cond: Cond) -> Image:
        with_text, without, *rest = in_one_call(denoise, x, sigma, [cond, null_cond, *others])
        toward = (at(scale, sigma, x) - 1) * (with_text - without)
        for weight, other in zip(weights, rest, strict=True):
            toward += at(weight, sigma, x) * (other - without)
        return with_text + toward

    return guided


def without_text(denoise: Denoiser, null_cond: Cond) -> Denoiser:
    """The denoiser that is told null_cond whatever the text."""
    return lambda x, sigma, cond: denoise(x, sigma, of_batch(null_cond, cond))


def weakened(weaken: Callable, perturbed: Sequence[str] = (), skipped: Sequence[str] = ()) -> Denoiser:
    """The denoiser with the same parameters, but in some stages each position attends to itself alone, or none.

    weaken: (perturbed, skipped) -> Denoiser. perturbed, skipped: as of `models.UNet`, such as "middle_0".
    """
    return weaken(tuple(perturbed), tuple(skipped))
