"""3 x 3 convolutions on CPU by Winograd's algorithm, where it is the quicker one; everything else is XLA's.

Lavin & Gray 2016 (Fast Algorithms for Convolutional Neural Networks, section 4.1), F(2 x 2, 3 x 3): each 2 x 2 square
of the result takes 16 products for a pair of channels instead of 36, because 4 x 4 squares of the input and the kernel
are first transformed by additions. The 16 products over all channels are matrix products, and so are their gradients;
XLA's own convolutions on CPU are slow in theirs.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from diffusion_jax.models.backend import backend
from diffusion_jax.models.fusion import computed_once
from diffusion_jax.types import Image

# Elements of feature maps that are transformed at once: the result, 4 times that, should fit into a cache.
CHUNK = 2**18
LARGEST = 3 * 2**18  # the same, where one picture alone is more
FEWEST = 24  # half the harmonic mean of the channels: below, the transforms cost more than the products they save


def convolve(x: Image, kernel: Float[Array, "rows columns channel features"], strides, padding, **options) -> Array:
    """`jax.lax.conv_general_dilated`, with its arguments and its result but for rounding, the quicker way here."""
    plain = (
        (*strides, padding) == (1, 1, "SAME")
        and set(options["rhs_dilation"] + options["lhs_dilation"]) == {1}
        and options["feature_group_count"] == 1
    )
    if not (plain and backend() == "cpu" and pays(x, kernel)):
        return lax.conv_general_dilated(x, kernel, strides, padding, **options)
    n = chunks(x)
    if n == 1:
        return winograd(x, kernel)
    y = lax.map(lambda chunk: winograd(chunk, kernel), x.reshape(n, -1, *x.shape[1:]))
    return y.reshape(-1, *y.shape[2:])


def pays(x: Image, kernel: Float[Array, "rows columns channel features"]) -> bool:
    """Whether `winograd` can do this convolution, and is the quicker one by what was measured on CPU."""
    *size, channels, features = kernel.shape
    possible = size == [3, 3] and x.shape[1] % 2 == x.shape[2] % 2 == 0 and x.dtype == jnp.float32
    return possible and x.size // chunks(x) <= LARGEST and channels * features >= FEWEST * (channels + features)


def chunks(x: Image) -> int:
    """Into how many parts a batch is cut; one, where its pictures lie on several devices and are few on each anyway."""
    if jax.device_count() > 1:
        return 1
    return next((n for n in range(1, len(x)) if len(x) % n == 0 and x.size // n <= CHUNK), len(x))


def winograd(x: Image, kernel: Float[Array, "3 3 channel features"]) -> Float[Array, "batch height width features"]:
    """The convolution of stride 1 that keeps the picture's size; height and width have to be even."""
    batch, height, width, channels = x.shape
    rows = pieces(x.reshape(batch, height // 2, 2, width, channels), axis=2)
    rows = computed_once(jnp.stack(differences(*rows, axis=1)))
    squares = pieces(rows.reshape(4, batch, height // 2, width // 2, 2, channels), axis=4)
    squares = jnp.stack(differences(*squares, axis=3), axis=1)
    taps = jnp.stack([tap for row in spread(*pieces(kernel, 0)) for tap in spread(*pieces(row, 0))])
    products = jnp.matmul(squares.reshape(16, -1, channels), taps)
    products = products.reshape(4, 4, batch, height // 2, width // 2, -1)
    result = [jnp.stack(gathered(*pieces(row, 0)), axis=3) for row in gathered(*pieces(products, 0))]
    return jnp.stack(result, axis=2).reshape(batch, height, width, -1)


def pieces(a: Array, axis: int) -> list[Array]:
    """a[0], a[1], ... of an axis. The gradient of a split is one concatenation, that of an index a padded copy each."""
    return [jnp.squeeze(piece, axis) for piece in lax.split(a, (1,) * a.shape[axis], axis)]


def differences(even: Array, odd: Array, axis: int) -> list[Array]:
    """B^T d of four neighbors d each: (odd before, even, odd, even after), zero beyond the picture's edges."""
    zero = jnp.zeros((), even.dtype)
    before = lax.pad(odd, zero, [(1, -1, 0) if a == axis else (0, 0, 0) for a in range(odd.ndim)])
    after = lax.pad(even, zero, [(-1, 1, 0) if a == axis else (0, 0, 0) for a in range(even.ndim)])
    return [before - odd, even + odd, odd - even, even - after]


def spread(g_0: Array, g_1: Array, g_2: Array) -> list[Array]:
    """G g."""
    return [g_0, (g_0 + g_1 + g_2) / 2, (g_0 - g_1 + g_2) / 2, g_2]


def gathered(m_0: Array, m_1: Array, m_2: Array, m_3: Array) -> list[Array]:
    """A^T m."""
    return [m_0 + m_1 + m_2, m_1 - m_2 - m_3]
