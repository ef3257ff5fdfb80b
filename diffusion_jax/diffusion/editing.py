"""How is a picture changed? By going up to a level of noise and down again, and by mixing noises or texts."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from diffusion_jax.diffusion.keys import for_purpose, normal
from diffusion_jax.types import Cond, Denoiser, Image, Keys, Sampler, Sigmas


def invert(sampler: Sampler, denoise: Denoiser, x_0: Image, sigmas: Sigmas, cond: Cond, keys: Keys) -> Image:
    """The noise at sigmas[0] from which the sampler makes x_0: the ODE solved upward, with the sampler's own rule.

    With `euler` this is DDIM inversion, equation 14 of Song et al. (2021, DDIM) run in reverse; `heun` is of second
    order, and its errors up and down cancel to the third. Any sampler that draws no noise will do, at its own order.
    x_0 is taken for x at sigmas[-1], with no noise added, while a sampler answers with D there: what the two differ by
    does not vanish with more levels but with sigmas[-1]. Guidance over 1 makes the ODE stiff and the inverse poor
    (Mokady et al. 2023): invert without, edit with. The path is kept in memory, and one call, D at the top, is unused.
    """
    return sampler(denoise, x_0, sigmas[::-1], cond, keys, trace=True)[1].x[-1]


def from_level(sigmas: Sigmas, strength: float) -> Float[Array, " kept"]:
    """The last levels, the share `strength` of them: where `img2img` starts. One at least, so 0 is a single denoise.

    `strength` is in [0, 1] and static, since it is a number of levels; it means another noise on another grid.
    Raises ValueError outside.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"strength is the share of the levels that are kept, in [0, 1], not {strength}")
    return sigmas[sigmas.size - max(1, round(strength * sigmas.size)) :]


def img2img(sampler: Sampler, denoise: Denoiser, x_0: Image, sigmas: Sigmas, cond: Cond, keys: Keys) -> Image:
    """SDEdit (Meng et al. 2022, Algorithm 1): noise of sigmas[0] on the picture, then the sampler.

    `from_level` cuts the sigmas. The more noise, the less is left of the picture; at the largest level what is left is
    x_0 / sigmas[0], not nothing. The noise is drawn as a picture's first noise is, from the same keys.
    """
    eps = normal(for_purpose(keys, "start"), x_0.shape[1:], sigmas.dtype)
    return sampler(denoise, x_0.astype(sigmas.dtype) + sigmas[0] * eps, sigmas, cond, keys)


def slerp(noise_a: Image, noise_b: Image, share: ArrayLike) -> Image:
    """From noise_a (share 0) to noise_b (1) on a great circle, each example alone (Shoemake 1985).

    The direction turns evenly and the norm changes evenly, so noises of one norm keep it; on a straight line two
    independent noises would lose a share of 0.29 of it halfway, and a sampler makes gray pictures of that. Nearly
    parallel noises take the straight line; opposite ones have no shortest way between them, and give nan.
    """
    norms = [jnp.sqrt(jnp.sum(jnp.square(each), axis=(1, 2, 3), keepdims=True)) for each in (noise_a, noise_b)]
    a, b = noise_a / norms[0], noise_b / norms[1]
    cosine = jnp.sum(a * b, axis=(1, 2, 3), keepdims=True)
    near = cosine > 1 - 1e-5
    angle = jnp.arccos(jnp.where(near, 0, cosine))  # where near, its gradient would be infinite
    turned = jnp.where(near, (1 - share) * a + share * b, jnp.sin((1 - share) * angle) * a + jnp.sin(share * angle) * b)
    length = jnp.sqrt(jnp.sum(jnp.square(turned), axis=(1, 2, 3), keepdims=True))
    return ((1 - share) * norms[0] + share * norms[1]) * turned / length


def lerp_cond(cond_a: Cond, cond_b: Cond, share: ArrayLike) -> Cond:
    """From the text cond_a (share 0) to cond_b (1) on a straight line, position by position.

    A position with text in one of the two alone is in the mask between them and counts as zero in the other, whatever
    an encoder left there; at the ends the mask is that of the end. Raises ValueError for texts of different shapes.
    """
    if cond_a.text_emb.shape != cond_b.text_emb.shape:
        shapes = f"{cond_a.text_emb.shape} and {cond_b.text_emb.shape}"
        raise ValueError(f"the texts differ in batch, length or width, {shapes}: encode both in the same way")
    share = jnp.asarray(share, cond_a.text_emb.dtype)
    a, b = (jnp.where(cond.text_mask[..., None], cond.text_emb, 0) for cond in (cond_a, cond_b))
    mask = (cond_a.text_mask & (share != 1)) | (cond_b.text_mask & (share != 0))
    return Cond((1 - share) * a + share * b, mask)
