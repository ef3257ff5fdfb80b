"""What a training step keeps in memory beside state and batch, for any number of pictures on a device."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from diffusion_jax.dry_run import abstract_batch
from diffusion_jax.experiment import Experiment
from diffusion_jax.placement import Placed
from diffusion_jax.plan import memory
from diffusion_jax.training.layout import bytes_on_each

PICTURES = (2, 4)  # traced with; in all others the same arrays are longer or shorter


class Activations(NamedTuple):
    """Bytes at each equation of the gradient's program: fixed, and more for each picture that is computed with."""

    fixed: np.ndarray
    each: np.ndarray

    def at(self, pictures: int) -> int:
        """Bytes at the program's fullest moment."""
        return int(np.max(self.fixed + pictures * self.each))

    def most(self, memory: int) -> int:
        """The most pictures for which that many bytes are enough; 0 where they are for none."""
        room = memory - self.fixed
        grows = self.each > 0
        if (room < 0).any():
            return 0
        return int(np.min(room[grows] // self.each[grows])) if grows.any() else 2**31


def activations(config: ConfigDict, experiment: Experiment, where: Placed) -> Activations:
    """Traces the gradient for two small numbers of pictures on one device, with its parts of the state.

    Arrays between the halves of the network are not thought of as cut over `tensor`, so that this is an upper bound
    where that axis is more than one.
    """
    trained, still = split(where.shapes.params, experiment.fixed)
    of_trained, of_still = split(where.shardings.params, experiment.fixed)
    leaves, places = jax.tree.leaves(trained), jax.tree.leaves(of_trained)
    parts = [bytes_on_each(leaf, place) for leaf, place in zip(leaves, places, strict=True)]

    def gradients(trained, still, batch, keys):
        def loss_of(trained):
            return experiment.loss(trained | still, batch, keys)

        (value, metrics), gradients = jax.value_and_grad(loss_of, has_aux=True)(trained)
        return gradients, metrics | {"loss": value}

    def result_bytes(place: int, size: int) -> int:  # gradients come first, and each device keeps its part
        return parts[place] if place < len(parts) else size

    def times(pictures: int) -> np.ndarray:
        few = config.copy_and_resolve_references()
        few.batch_size = pictures
        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), pictures))
        # a new function each time: what was traced for another backend is not taken for this one
        traced = jax.make_jaxpr(lambda *arguments: gradients(*arguments))
        jaxpr = traced(trained, still, abstract_batch(few, experiment), keys).jaxpr
        gathered = ["fsdp" in place.spec for place in [*places, *jax.tree.leaves(of_still)]]
        return np.array(memory.timeline(jaxpr, gathered, result_bytes), np.int64)

    (few, more), (at_few, at_more) = PICTURES, (times(pictures) for pictures in PICTURES)
    each = (at_more - at_few) // (more - few)
    return Activations(at_few - few * each, each)


def split(tree: dict, fixed: Sequence[str]) -> tuple[dict, dict]:
    """A dict in two: what is trained, and the names in `fixed`."""
    return (
        {name: value for name, value in tree.items() if name not in fixed},
        {name: value for name, value in tree.items() if name in fixed},
    )
