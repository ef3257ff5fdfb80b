"""The worker that is diffusion_jax; see against_diffusers.py."""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from worker import serve

from diffusion_jax import config as entries
from diffusion_jax import models
from diffusion_jax.diffusion import (
    denoiser,
    guidance,
    loss,
    noise_levels,
    parameterization,
    samplers,
    schedules,
    weighting,
)
from diffusion_jax.interop.safetensors_file import save_params
from diffusion_jax.training import optimizer, parallel, state, step
from diffusion_jax.types import Cond


def operations(folder: Path) -> dict:
    """Draws parameters and inputs, leaves them in the folder, and compiles."""
    case = json.loads((folder / "case.json").read_text())
    shape, batch, size, length = case["unet"], case["batch"], case["resolution"], case["text_length"]
    unet = entries.bind({"name": "UNet", **shape, "dtype": case["dtype"]}, models)()
    numbers = np.random.default_rng(0)
    inputs = {
        "x_0": numbers.uniform(-1, 1, (batch, size, size, 3)),
        "eps": numbers.standard_normal((batch, size, size, 3)),
        "log_snr": numbers.uniform(-5, 5, batch),
        "text": numbers.standard_normal((batch, length, case["text_dim"])),
    }
    inputs = {name: jnp.asarray(array, jnp.float32) for name, array in inputs.items()}
    words = numbers.integers(1, length + 1, batch)
    cond = Cond(inputs["text"], jnp.arange(length)[None, :] < words[:, None])

    shapes = jax.eval_shape(unet.init, jax.random.key(0), inputs["x_0"], inputs["log_snr"], cond)["params"]
    params = jax.tree_util.tree_map_with_path(lambda path, leaf: drawn(path[-1].key, leaf.shape, numbers), shapes)
    schedule, parameterize = schedules.cosine(), parameterization.v_prediction

    def network(params):
        return lambda x_t, log_snr, cond: unet.apply({"params": params}, x_t, log_snr, cond)

    def fixed_loss(params):
        alpha_t, sigma_t = (a[:, None, None, None] for a in schedule.alpha_sigma(inputs["log_snr"]))
        x_t = alpha_t * inputs["x_0"] + sigma_t * inputs["eps"]
        v = network(params)(x_t, inputs["log_snr"], cond)
        return jnp.mean(jnp.square(v - (alpha_t * inputs["eps"] - sigma_t * inputs["x_0"]))), (x_t, v)

    @jax.jit
    def sample(params):
        denoise = denoiser.denoiser(network(params), schedule, parameterize)
        null = Cond(jnp.zeros_like(cond.text_emb[:1]), cond.text_mask[:1])
        guided = guidance.cfg(denoise, null, 3.0)
        return samplers.ddim(
            guided, inputs["eps"] * sigmas[0], sigmas, cond, jax.random.split(jax.random.key(0), batch)
        )

    def training_loss(params, batch, keys, rows):
        return loss.diffusion_loss(
            network(params), batch["image"], cond, keys, schedule=schedule, parameterization=parameterize,
            noise_levels=noise_levels.uniform, weighting=lambda log_snr: weighting.edm(log_snr, sigma_data=1.0),
        )  # fmt: skip

    sigmas = jnp.geomspace(80.0, 0.02, case["nfe"])
    (value, (x_t, v)), gradients = jax.jit(jax.value_and_grad(fixed_loss, has_aux=True))(params)
    results = {
        "x_t": x_t,
        "v": v,
        "loss": value,
        "mask": cond.text_mask.astype(jnp.float32),
        "sigmas": sigmas,
        "pictures": sample(params),
    }
    for name, tree in {"params": params, "gradients": gradients, "arrays": results | inputs}.items():
        save_params(folder / f"{name}.safetensors", tree)
    forward = jax.jit(lambda params: network(params)(x_t, inputs["log_snr"], cond))
    rule = optimizer.adamw(1e-4, b2=0.99)
    mesh = parallel.device_mesh()
    train_step = parallel.jit_parallel(
        step.make_train_step(training_loss, rule, 0.999), mesh, parallel.everywhere(mesh)
    )
    holder = [parallel.replicate(state.init_state(jax.tree.map(jnp.copy, params), rule), mesh)]
    pictures, key = {"image": inputs["x_0"]}, jax.random.key(0)

    def train():
        holder[0], metrics = train_step(holder[0], pictures, key)
        return metrics

    calls = {"forward": lambda: forward(params), "sample": lambda: sample(params), "train": train}
    return {name: lambda call=call: jax.block_until_ready(call()) for name, call in calls.items()}


def drawn(leaf: str, shape: tuple[int, ...], numbers: np.random.Generator) -> jax.Array:
    """Parameters as after some training: none is zero, because a zero hides what is behind it."""
    normal = numbers.standard_normal(shape)
    if leaf == "kernel":
        return jnp.asarray(normal / np.sqrt(np.prod(shape[:-1])), jnp.float32)
    return jnp.asarray((leaf == "scale") + 0.1 * normal, jnp.float32)


if __name__ == "__main__":
    serve(operations(Path(sys.argv[1])), f"jax {jax.__version__}, {jax.devices()[0].device_kind}")
