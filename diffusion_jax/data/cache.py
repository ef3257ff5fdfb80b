"""Pictures decoded and resized once: small pictures are visited hundreds of times, and all of them fit in memory."""

from diffusion_jax.data.examples import Example, Indexed, Source
from diffusion_jax.data.transforms import check_square, square

OVERHEAD = 1024  # bytes that an example takes beside its pixels: its captions, id and Python's records


def decoded(source: Source, resolution: int, fit: str = "crop", max_bytes: int = 1 << 30) -> Source:
    """The source with its pictures resized to `resolution` squares, each kept in memory from its first visit on.

    A source that would take more than max_bytes is not kept at all: it is read or drawn anew at every visit, as an
    endless one has to be. Kept pictures are read-only arrays, shared by all who ask. A copy sent to another process
    starts empty.
    """
    check_square(resolution, fit)
    keep = len(source) * (3 * resolution**2 + OVERHEAD) <= max_bytes
    return Indexed(len(source), Resized(source, resolution, fit, keep))


class Resized:
    """An index to its resized example, remembering it if asked to keep."""

    def __init__(self, source: Source, resolution: int, fit: str, keep: bool):
        self._arguments = source, resolution, fit, keep
        self._kept: dict[int, Example] = {}

    def __call__(self, index: int) -> Example:
        if (example := self._kept.get(index)) is not None:
            return example
        source, resolution, fit, keep = self._arguments
        raw = source[index]
        image = square(raw["image"], resolution, fit).copy()  # a view would keep the large original alive
        image.flags.writeable = False
        example = {"image": image, "captions": tuple(raw["captions"]), "id": raw["id"]}
        if keep:
            self._kept[index] = example
        return example

    def __reduce__(self) -> tuple:
        return Resized, self._arguments
