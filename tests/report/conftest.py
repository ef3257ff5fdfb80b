import json

import numpy as np
import pytest
from PIL import Image

ABOUT = {
    "title": "error on held-out pictures", "better": "lower", "relevant": 0.05, "relevant_of": "mean", "n": 256,
    "of": "held-out pictures", "floor": None, "features": None,
}  # fmt: skip


@pytest.fixture
def write_sweep(tmp_path):
    """Writes the folder that a sweep leaves: (values of arms by seeds, what is otherwise) -> its path.

    values: {arm: [figure of seed 0, ...]}; None: crashed, NaN: diverged, "missing": never begun.
    """

    def write(values, name="question", about=(), curves=False, pictures=False, others=(), **status):
        folder, runs = tmp_path / name, []
        seeds = max(map(len, values.values()))
        for arm, figures in values.items():
            for seed, value in enumerate(figures):
                home = folder / f"{arm.split('<')[0]}-0123456789ab" / f"seed_{seed}"
                home.mkdir(parents=True)
                state = "waiting" if value == "missing" else "failed" if value is None else "done"
                state = "diverged" if state == "done" and np.isnan(value) else state
                run = dict(arm=arm, seed=seed, folder=str(home.relative_to(folder)), state=state, step=60, steps=60)
                run |= dict(loss=0.1, seconds=12.0 + seed, code=0, said="error: no", figures=None)
                if state == "done":
                    record = record_of(arm, seed, value, dict(about), curves, others)
                    (home / "figures").mkdir()
                    if pictures:
                        record |= {"prompts": ["a <red> circle", "b & c"], "pictures": "key.png"}
                        Image.new("RGB", (32, 16), (seed, 9, 9)).save(home / "figures" / "key.png")
                    (home / "figures" / "key.json").write_text(json.dumps(record))
                    run["figures"] = str((home / "figures" / "key.json").relative_to(folder))
                    lines = [json.dumps({"step": step, "train/loss": value / step}) for step in range(1, 30)]
                    (home / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 99, "train/lo')
                    (home / "versions.json").write_text('{"jax": "0.12.0"}')
                runs.append(run)
        told = dict(question=name, about="Which <one>?\n\nKnown: nothing.", preset="cpu", seeds=seeds)
        told |= dict(replicates="training", decides="held_out/error", against=None)
        arms = [{"arm": arm, "digest": "0" * 12, "differs": [f"label: a -> {arm}"]} for arm in values]
        (folder / "status.json").write_text(json.dumps(told | dict(arms=arms, runs=runs) | status))
        return folder

    return write


def record_of(arm, seed, value, about, curves, others):
    figures = {"held_out/error": ABOUT | about | {"value": value}}
    for name, change in dict(others).items():
        figures[name] = ABOUT | change | {"value": change.get("value", value)}
    curve = {"title": "error by level", "x_title": "log_snr", "y_title": "error", "x": [-1, 0, 1], "y": [value, 1, 2]}
    return {
        "arm": arm, "seed": seed, "step": 60, "figures": figures,
        "curves": {"held_out/by_level": curve} if curves else {},
        "prompts": [], "pictures": None,
        "axes": {"nfe": 20, "cfg_scale": 1.0, "seconds_per_picture": 0.01},
        "cost": {"parameters": 1234, "network_calls_per_picture": 20, "seconds_per_picture": 0.01},
    }  # fmt: skip
