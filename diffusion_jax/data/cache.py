"""Pictures decoded and resized once: small pictures are visited hundreds of times, and all of them fit in memory."""

from diffusion_jax.data.examples import Example, Indexed, Source
from diffusion_jax.data.transforms import square


def decoded(source: Source, resolution: int, fit: str = "crop", max_bytes: int = 1 << 30) -> Source:
    """The source with its pictures resized to `resolution` squares, each kept in memory from its first visit on.

    Once max_bytes of pictures are kept, further ones are made anew at every visit; 0 keeps none. Kept pictures are
    read-only arrays, shared by all who ask. A copy sent to another process starts empty.
    """
    return Indexed(len(source), Resized(source, resolution, fit, max_bytes))


class Resized:
    """An index to its resized example, remembering up to max_bytes of them."""

    def __init__(self, source: Source, resolution: int, fit: str, max_bytes: int):
        self._arguments = source, resolution, fit, max_bytes
        self._room = max_bytes // (3 * resolution * resolution)
        self._kept: dict[int, Example] = {}

    def __call__(self, index: int) -> Example:
        if (example := self._kept.get(index)) is not None:
            return example
        source, resolution, fit, _ = self._arguments
        raw = source[index]
        image = square(raw["image"], resolution, fit).copy()  # a view would keep the large original alive
        image.flags.writeable = False
        example = {"image": image, "captions": tuple(raw["captions"]), "id": raw["id"]}
        if len(self._kept) < self._room:  # two threads may both add: a few pictures over the bound do no harm
            self._kept[index] = example
        return example

    def __reduce__(self) -> tuple:
        return Resized, self._arguments
