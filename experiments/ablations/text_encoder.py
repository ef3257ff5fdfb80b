"""Which text encoder: a T5 of bytes that learns with the denoiser, or MiniLM, which read the web and stays as it is?

    diffusion-jax data embed --config=experiments/ablations/text_encoder.py:minilm
    diffusion-jax train --config=experiments/ablations/text_encoder.py:minilm --workdir=runs/minilm_0 --config.seed=0
    diffusion-jax train --config=experiments/ablations/text_encoder.py:bytes --workdir=runs/bytes_0 --config.seed=0
    python -m experiments.ablations.text_encoder runs/bytes_0 runs/minilm_0

16-pixel emoji of what experiments/emoji32.py draws. Arms of one seed see the same pictures with captions, noise and
levels in the same order. The last command measures how much wrong captions change the error of each run, on concepts
that were held out and on some that were not, by their own names and in other words; and it draws what those say.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
from absl import app, flags, logging

from diffusion_jax import build, drawing, trained, watching
from diffusion_jax.data import examples, pipeline
from diffusion_jax.evaluation import images
from diffusion_jax.files import write_json
from experiments import demo, emoji32

OUT = flags.DEFINE_string("out", "runs/ablations", "Folder of the picture and the table.")
DATA_DIR = flags.DEFINE_string("data_dir", "data", "Where data sets were built.")
SHOWN = 8  # of each list below, the first, in a row of a run
ROUNDS = 512  # pictures, each with other noise and another wrong caption, in a set

PARAPHRASES = {
    "validation": {
        "shooting star": "meteor",
        "star of David": "emblem for Israel",
        "brown square": "chocolate colored box",
        "brown circle": "chocolate colored disk",
        "black medium square": "dark box",
        "smiling face with open hands": "happy person who embraces you",
        "face in clouds": "somebody lost within mist",
        "winking face with tongue": "cheeky joker who shuts one lid",
        "hushed face": "speechless astonishment",
        "beach with umbrella": "parasol on the seaside sand",
        "sun behind large cloud": "overcast with a little sunshine",
        "twelve o’clock": "noon",
        "last quarter moon": "half of the lunar disk",
        "couple with heart: woman, man": "two people who adore each other",
        "heart decoration": "ornamental valentine",
        "old key": "antique tool that opens doors",
        "dolphin": "clever swimming mammal",
        "fox": "vixen",
        "sushi": "raw fish on rice from Japan",
    },
    "train": {
        "red heart": "scarlet symbol of affection",
        "blue heart": "azure symbol of affection",
        "green heart": "emerald symbol of affection",
        "red apple": "scarlet fruit",
        "green apple": "emerald fruit",
        "yellow circle": "golden disk",
        "red circle": "scarlet disk",
        "banana": "long curved snack of monkeys",
        "grapes": "what wine is made of",
        "strawberry": "sweet summer dessert with cream",
        "crescent moon": "thin lunar sickle",
        "sunflower": "tall stalk with yellow petals",
        "rose": "what lovers give, with thorns",
        "snowman": "frosty winter figure with a carrot nose",
        "grinning face": "smiley that laughs",
        "crying face": "weeping smiley",
        "cat face": "young feline",
        "dog face": "young canine",
        "house": "where a family lives",
        "airplane": "what pilots fly",
        "pizza": "baked dough with salami from Naples",
        "umbrella": "keeps you dry in a storm",
    },
}


def get_config(encoder: str = "bytes"):
    config = demo.get_config()
    config.data = emoji32.get_config().data
    config.optimizer.update(dict(warmup_steps=200, decay_steps=2000))
    config.train.update(dict(steps=2000, log_every=100, validate_every=500, sample_every=1000, save_every=250))
    config.validation_size = 512
    emoji32.read_by(config, encoder)
    return config


def sets_of(model: trained.Trained, data_dir: str) -> dict[str, dict]:
    """The pictures of the concepts above, held out and not, each set by their names and paraphrased."""
    fixed = partial(pipeline.fixed, resolution=model.config.resolution, tokenizer=model.experiment.text.tokenize)
    sets = {}
    for split, others in PARAPHRASES.items():
        source = build.source(model.config, split, data_dir)
        named = [i for i in range(len(source)) if examples.captions(source, i)[1] in others]
        for kind, said in {"named": {name: name for name in others}, "paraphrased": others}.items():
            told = examples.Indexed(len(named), partial(_said, source=source, named=named, said=said))
            sets[f"{split}_{kind}"] = fixed(told, count=len(named))
    return sets


def _said(index: int, source: examples.Source, named: list[int], said: Mapping[str, str]) -> examples.Example:
    example = source[named[index]]
    main, name, *_ = example["captions"]
    return example | {"captions": (main.replace(name, said[name], 1),)}


def main(folders: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    if not folders[1:]:
        raise app.UsageError("give the folders of runs")
    out, rows, drawn = Path(OUT.value), [], []
    prompts = [f"{said}, noto style" for others in PARAPHRASES.values() for said in [*others.values()][:SHOWN]]
    for folder in folders[1:]:
        model = trained.load(folder)
        sets = sets_of(model, DATA_DIR.value)
        record = watching.make_validation(model.experiment, sets, ROUNDS, model.config.batch_size)(model.params)
        rows.append({"run": folder} | {name: float(value) for name, value in record.items() if np.ndim(value) == 0})
        for title in sets:
            gap, spread = record[f"{title}/gap"], record[f"{title}/gap_standard_error"]
            print(f"{folder}: wrong captions change the error by {gap:+.4f} +- {spread:.4f} on {title}", flush=True)
        drawing_of = drawing.make_drawing(model.experiment, model.config.sampling)
        drawn.append(drawing_of(model.params, prompts, seed=0, watched=()).pictures)
    write_json(out / "text_encoder.json", {"rows": rows})
    shown = [slice(start, start + SHOWN) for start in range(0, len(prompts), SHOWN)]
    captions = [f"{Path(f).name}: {prompt}" for part in shown for f in folders[1:] for prompt in prompts[part]]
    pictures = np.concatenate([each[part] for part in shown for each in drawn])
    images.write_png(out / "text_encoder.png", images.grid(pictures, captions=captions, columns=SHOWN))
    print(f"look at {out / 'text_encoder.png'}")


if __name__ == "__main__":
    app.run(main)
