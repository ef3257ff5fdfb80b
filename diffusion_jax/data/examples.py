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
    """A Source made of its length and a function from an index to an example."""

    def __init__(self, length: int, get: Callable[[int], Example]):
        self._length, self._get = length, get

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < self._length:
            raise IndexError(f"Example {index} of a source of {self._length}.")
        return self._get(int(index))
