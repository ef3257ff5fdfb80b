"""What a source is: a random-access sequence of captioned pictures."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

# image: uint8 (height, width, 3) RGB; captions: tuple of str, the main one first; id: str; anything else is extra
Example = dict[str, Any]


@runtime_checkable
class Source(Protocol):
    """Examples by index. Reading one must not depend on what was read before; threads read at the same time."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


class Indexed:
    """A Source made of its length and a function from an index to an example.

    captions: from an index to the example's captions, where they can be had without the picture.
    """

    def __init__(self, length: int, get: Callable[[int], Example], captions: Callable | None = None):
        self._length, self._get, self.captions = length, get, captions

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < self._length:
            raise IndexError(f"Example {index} of a source of {self._length}.")
        return self._get(int(index))


def captions(source: Source, index: int) -> tuple[str, ...]:
    """The captions of an example, without its picture from sources that know them alone."""
    alone = getattr(source, "captions", None)
    return tuple(alone(index) if alone else source[index]["captions"])
