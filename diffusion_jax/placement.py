"""A config's training on its devices: the mesh, the state laid out on it, and the step compiled for both."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh
from jaxtyping import Array, Key
from ml_collections import ConfigDict

from diffusion_jax.experiment import Experiment
from diffusion_jax.training import mapped, nonfinite, parallel, state, step
from diffusion_jax.training.layout import gathered, layout
from diffusion_jax.types import Params

WAYS = ("jit", "pmap")
COLUMNS = ("image", "tokens", "mask")  # of a batch: what goes to the devices
PARALLEL = dict(name="jit", mesh=dict(data=-1, fsdp=1, tensor=1))  # what a config without the entry means


def _entry(config: ConfigDict) -> dict:
    return PARALLEL | ConfigDict(config.get("parallel", {})).to_dict()


def mesh_of(config: ConfigDict, devices=None, planned: int = 0) -> Mesh | AbstractMesh:
    """The mesh of config.parallel, over all devices unless some are given; the batch and its parts divide among them.

    planned: so many devices instead that are not there, for an AbstractMesh.
    Raises ValueError where an entry makes no sense, or the numbers do not fit together.
    """
    entry = _entry(config)
    if unknown := sorted(set(entry) - set(PARALLEL)):
        raise ValueError(f"config.parallel has no {unknown[0]!r}: write dict(name='jit', mesh=dict(data=-1, fsdp=1))")
    if entry["name"] not in WAYS:
        raise ValueError(f"config.parallel.name is {entry['name']!r}: it is {' or '.join(WAYS)}")
    if unknown := sorted(set(entry["mesh"]) - {"data", "fsdp", "tensor", "slices"}):
        raise ValueError(f"config.parallel.mesh has no axis {unknown[0]!r}: it has data, fsdp, tensor and slices")
    if planned:
        mesh = parallel.planned_mesh(planned, **entry["mesh"])
    else:
        mesh = parallel.device_mesh(**entry["mesh"], devices=devices)
    if entry["name"] == "pmap" and (mesh.shape["fsdp"], mesh.shape["tensor"]) != (1, 1):
        raise ValueError(
            "config.parallel: pmap has the whole state on each device: set fsdp and tensor to 1, or take jit"
        )
    parallel.check_batch_size(config.batch_size, mesh, config.get("microbatch", 0))
    if config.get("learned_schedule", 0) and (entry["name"] == "pmap" or config.get("microbatch", 0)):
        raise ValueError(
            "config.learned_schedule: the scatter of a batch's losses is no mean over its parts: set config.microbatch "
            "to 0 and config.parallel.name to jit"
        )
    return mesh


class Placed(NamedTuple):
    """Where a training's state lies: its shapes, and a sharding for each leaf."""

    mesh: Mesh | AbstractMesh
    shapes: state.TrainState
    shardings: state.TrainState


def placed(experiment: Experiment, mesh: Mesh | AbstractMesh) -> Placed:
    """The layout of an experiment's state on a mesh; nothing is computed."""
    shapes = jax.eval_shape(partial(initial_state, experiment), jax.eval_shape(lambda: jax.random.key(0)))
    return Placed(mesh, shapes, layout(shapes, mesh))


def initial_state(experiment: Experiment, key) -> state.TrainState:
    """The state at step 0, with nothing that was trained elsewhere."""
    return state.init_state(experiment.init(key), experiment.optimizer, experiment.fixed)


def first_state(experiment: Experiment, where: Placed, seed: int, begun: Params | None = None) -> state.TrainState:
    """The state at step 0, each part made on its device, with a text encoder that was trained elsewhere if it has one.

    begun: parameters that every process has, and that the state is to begin with instead.
    """
    now = jax.jit(lambda: initial_state(experiment, jax.random.key(seed)), out_shardings=where.shardings)()
    if begun is None:
        begun = {"text_encoder": experiment.text.load()} if experiment.text.load else {}
    if not begun:
        return now
    laid_out = parallel.place(begun, {name: where.shardings.params[name] for name in begun})
    copied = jax.tree.map(jnp.copy, laid_out)
    return now._replace(params=now.params | laid_out, ema_params=now.ema_params | copied)


def gather(where: Placed) -> Callable:
    """Averaged parameters of the state -> the same, whole over fsdp, for what looks at them now and then."""
    if where.mesh.shape["fsdp"] == 1:
        return lambda params: params
    return jax.jit(lambda params: gathered(params, where.shardings.params))


def one_update(config: ConfigDict, experiment: Experiment, axis: str | None = None) -> Callable:
    """(state, batch, key) -> (state, metrics), not compiled yet; see `training.step`."""
    update = step.make_train_step(
        experiment.loss,
        experiment.optimizer,
        config.ema_decay,
        experiment.fixed,
        microbatch=config.get("microbatch", 0),
        axis=axis,
    )
    return nonfinite.skipping(update) if config.train.get("skip_nonfinite", 0) else update


def compiled_step(config: ConfigDict, experiment: Experiment, where: Placed) -> Callable:
    """(state, batch, key) -> (state, metrics) on the devices of the mesh, jitted or mapped as config.parallel says."""
    by_pmap = _entry(config)["name"] == "pmap"

    def loss(params, *arguments):
        return experiment.loss(gathered(params, where.shardings.params), *arguments)

    gathers = where.mesh.shape["fsdp"] > 1
    update = one_update(config, experiment._replace(loss=loss) if gathers else experiment, "rows" if by_pmap else None)
    if by_pmap:
        return mapped.pmap_parallel(update, where.mesh)
    return parallel.jit_parallel(update, where.mesh, where.shardings)


def step_key(seed: int) -> Key[Array, ""]:
    """The key of all that a run draws after its first parameters."""
    return jax.random.fold_in(jax.random.key(seed), 1)


def make_step(config: ConfigDict, experiment: Experiment, where: Placed) -> Callable:
    """(state, this process's rows of a batch) -> (state, metrics), on all devices of the mesh."""
    compiled = compiled_step(config, experiment, where)
    key = parallel.replicate(step_key(config.seed), where.mesh)

    def take_step(now: state.TrainState, batch: dict) -> tuple[state.TrainState, dict]:
        arrays = {name: batch[name] for name in COLUMNS}
        return compiled(now, parallel.split_batch(arrays, where.mesh, config.batch_size), key)

    return take_step
