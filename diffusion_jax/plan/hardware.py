"""What accelerators can do, and what they cost: facts of their makers, and prices to be replaced by your own."""

import difflib
from typing import NamedTuple


class Kind(NamedTuple):
    """One device (a TPU chip, a GPU).

    flop_per_second: peak of dense bfloat16 matrix products. memory: bytes. price: dollars for an hour, an assumption.
    backend: of JAX.
    """

    flop_per_second: float
    memory: int
    price: float
    backend: str


GIB = 2**30  # makers write GB, and the devices have about as many GiB

# Peaks and memory of TPUs: docs.cloud.google.com/tpu/docs/v4, v5e, v5p, v6e. Of GPUs: NVIDIA's data sheets of A100,
# H100 and H200 (SXM), without sparsity. Prices are of the order of what is asked on demand, and no more: they change,
# and depend on place and contract. --price replaces them.
KINDS = {
    "v4": Kind(275e12, 32 * GIB, 3.22, "tpu"),
    "v5e": Kind(197e12, 16 * GIB, 1.20, "tpu"),
    "v5p": Kind(459e12, 95 * GIB, 4.20, "tpu"),
    "v6e": Kind(918e12, 32 * GIB, 2.70, "tpu"),
    "a100-40gb": Kind(312e12, 40 * GIB, 1.30, "gpu"),
    "a100": Kind(312e12, 80 * GIB, 2.00, "gpu"),
    "h100": Kind(989e12, 80 * GIB, 3.00, "gpu"),
    "h200": Kind(989e12, 141 * GIB, 4.00, "gpu"),
}


def kind_of(name: str) -> Kind:
    """The device of that name. Raises ValueError, with the names there are, for another."""
    if name.lower() not in KINDS:
        near = difflib.get_close_matches(name.lower(), KINDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"it is one of {', '.join(KINDS)}"
        raise ValueError(f"--kind={name}: no such device is known; {hint}")
    return KINDS[name.lower()]
