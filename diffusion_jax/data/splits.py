"""Which examples are kept out of training: decided by name, so that it stays decided when others come or go."""

import hashlib
from collections.abc import Iterable

SPLITS = ("train", "validation")


def check_split(split: str) -> None:
    """Raises ValueError unless split is "train" or "validation"."""
    if split not in SPLITS:
        raise ValueError(f'split is {split!r}; choose "train" or "validation".')


def check_held_out(held_out: float) -> None:
    """Raises ValueError unless the fraction kept for validation lies in [0, 1)."""
    if not 0 <= held_out < 1:
        raise ValueError(f"held_out is {held_out}; it is the fraction kept for validation: choose one in [0, 1).")


def split_of(name: str, held_out: float) -> str:
    """The split that a name falls into: "validation" for about the fraction held_out of all names."""
    return "validation" if _fraction(name) < held_out else "train"


def names_of(names: Iterable[str], split: str, held_out: float) -> list[str]:
    """The names of a split, in order; a few names are split so that neither side is empty when both are wanted."""
    names = list(names)
    spare = min(names, key=_fraction) if held_out and len(names) > 1 else None
    return [name for name in names if (split_of(name, held_out) == "validation" or name == spare) == (split != "train")]


def _fraction(name: str) -> float:
    digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
