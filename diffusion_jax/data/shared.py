"""One reading of the batches for several trainings that go in step: all of them see each batch, which is made once."""

from diffusion_jax.data.pipeline import Batch, Batches


class Share:
    """The batches as one of several trainings sees them, see `shares`; it is used as `pipeline.Batches` is.

    Its position is its own, at most one batch from that of the others. Raises ValueError where it is further.
    """

    def __init__(self, read: Batches, newest: dict):
        self._read, self._newest, self._next = read, newest, 0

    def __iter__(self) -> "Share":
        return self

    def __next__(self) -> Batch:
        if self._newest["next"] is None:  # the first of all begins where it stands
            self._read.set_state(self.get_state())
            self._newest["next"] = self._next
        if self._next == self._newest["next"]:  # no other has asked for it yet
            self._newest["batch"] = next(self._read)
            self._newest["next"] += 1
        if self._next != self._newest["next"] - 1:
            raise ValueError(f"trainings that share batches go in step: one is at {self._next}, others are not")
        self._next += 1
        return self._newest["batch"]

    def get_state(self) -> dict[str, int]:
        return self._read.get_state() | {"next_batch": self._next}

    def set_state(self, state: dict) -> None:
        """Go there, before anybody has read; only those that stand at one place may then read."""
        self._read.set_state(state)  # which raises where it is none of these batches
        self._next = int(state["next_batch"])

    def close(self) -> None:
        """Nothing: others may still read. Who made the batches closes them."""


def shares(read: Batches, count: int) -> list[Share]:
    """So many views of batches that nobody has read of yet."""
    newest = {"next": None, "batch": None}
    return [Share(read, newest) for _ in range(count)]
