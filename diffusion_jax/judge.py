"""How good is a trained model? The figures that need no learned metric."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diffusion_jax import build, drawing, trained, watching
from diffusion_jax.data import shapes_parser
from diffusion_jax.files import write_json
from diffusion_jax.training import post_hoc_ema


def judge(
    data_dir: str,
    workdir: str | None = None,
    pretrained: str | None = None,
    count: int = 256,
    seed: int = 0,
    lengths: Sequence[float] = (),
) -> dict:
    """Validation losses on held-out pictures, and on shapes the share of captions that the drawn pictures obey.

    count: pictures to judge by. lengths: of averages that are made of the run's snapshots (`training.post_hoc_ema`);
    each is judged by its losses too, as ema_LENGTH/... Prints the figures and, for a run, writes them to
    evaluation.json in its folder. Every figure comes with the number of examples; the noise, the captions and the seeds
    are the same every time.
    """
    model = trained.load(workdir, pretrained)
    config = model.config.copy_and_resolve_references()
    with config.unlocked():
        config.validation_size = count
    sets = build.fixed_sets(config, model.experiment, data_dir)
    held_out = sets["validation"]
    validate = watching.make_validation(model.experiment, sets, count, config.batch_size)
    figures = {name: np.asarray(value).tolist() for name, value in validate(model.params).items()}
    for length in lengths:
        if workdir is None:
            raise ValueError("--ema is about a run's snapshots: give --workdir")
        made = post_hoc_ema.reconstruct(Path(workdir) / "ema", length)
        record = validate(model.params | made.params)
        figures |= {f"ema_{length:g}/{name}": np.asarray(value).tolist() for name, value in record.items()}
    if config.data.name == "shapes":
        draw = drawing.make_drawing(model.experiment, config.sampling, chunk=64)
        drawn = draw(model.params, held_out["captions"], seed, watched=())
        scores = shapes_parser.alignment(drawn.pictures, held_out["captions"])
        floor = shapes_parser.alignment(held_out["image"], held_out["captions"])
        figures |= {f"alignment/{name}": score for name, score in scores.items()}
        figures |= {f"alignment_of_real_pictures/{name}": score for name, score in floor.items()}
        figures["alignment/examples"] = len(held_out["captions"])
    print(f"{model.name}, on held-out (validation) and training (seen) pictures of {config.data.name}:")
    for name, value in figures.items():
        numbers = value if isinstance(value, list) else [value]
        print(f"  {name:<36} {' '.join(f'{number:.4g}' for number in numbers)}")
    if workdir is not None:
        write_json(Path(workdir) / "evaluation.json", figures)
    return figures
