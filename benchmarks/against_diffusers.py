"""How fast is the same network in diffusion_jax and in PyTorch out of diffusers' parts?

    make reference
    .venv/bin/python benchmarks/against_diffusers.py experiments/emoji32.py experiments/emoji64.py@8 --dtype=float32

Two worker processes hold the same parameters, each in its own Python, and take turns, so that whatever else the machine
does falls on both. First their outputs, pictures and gradients must agree. A case is a config's UNet and batch size
(or CONFIG:ARGUMENT@BATCH); PyTorch's picture layout is channels_last. Operations: one forward pass; DDIM with guidance;
a training step (loss, gradient, clip, AdamW, moving average). The text is random numbers: no text encoder is timed.
"""

import argparse
import json
import runpy
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from diffusion_jax import build

HERE = Path(__file__).parent
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1}  # of the largest value; rounding alone, over tens of layers


class Worker:
    """A process that computes on demand."""

    def __init__(self, python: str, script: str, folder: str):
        command = [python, str(HERE / script), folder]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.about = json.loads(self.line())

    def line(self) -> str:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"error: {' '.join(map(str, self.process.args))} ended early; what it said is above")
        return line

    def seconds(self, operation: str) -> float:
        self.process.stdin.write(operation + "\n")
        self.process.stdin.flush()
        return float(self.line())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


def compare(case: dict, torch_python: str, rounds: int) -> dict:
    """Both workers, A B A B; ratios above 1 say that diffusion_jax is the quicker one."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "case.json").write_text(json.dumps(case))
        with (
            Worker(sys.executable, "worker_jax.py", folder) as ours,
            Worker(torch_python, "worker_torch.py", folder) as theirs,
        ):
            distances = theirs.about["distances"]
            if max(distances.values()) > TOLERANCE[case["dtype"]]:
                raise SystemExit(f"error: the two networks differ, so their speeds say nothing: {distances}")
            result = {"case": case, "ours": ours.about, "theirs": theirs.about}
            for operation in ("forward", "sample", "train"):
                seconds = np.array([[w.seconds(operation) for w in (ours, theirs)] for _ in range(rounds)])
                low, middle, high = np.percentile(seconds[:, 1] / seconds[:, 0], [10, 50, 90])
                medians = np.median(seconds, axis=0)
                result[operation] = {
                    "seconds_ours_theirs": medians.tolist(),
                    "ratio_of_medians": float(medians[1] / medians[0]),
                    "ratio_of_rounds_10_50_90_percent": [low, middle, high],
                }
                print(
                    f"{case['config']:28} {operation:8} {medians[0]:8.3f} s against {medians[1]:8.3f} s: "
                    f"{medians[1] / medians[0]:.2f} ({low:.2f} to {high:.2f} over {rounds} rounds)",
                    flush=True,
                )
    return result


def case_of(words: str, options: argparse.Namespace) -> dict:
    """What both workers have to know of a config."""
    told, _, batch = words.partition("@")
    path, *argument = told.split(":")
    if not Path(path).is_file():
        raise SystemExit(f"error: no config {path}")
    config = runpy.run_path(path)["get_config"](*argument)
    unet = {key: value for key, value in config.denoiser.to_dict().items() if key not in ("name", "dtype", "dropout")}
    tokens, _ = build.text_of(config).tokenize([""])  # embeddings, where the encoder has done its work before
    return {
        "config": words,
        "unet": unet,
        "batch": int(batch or config.batch_size),
        "resolution": config.resolution,
        "text_dim": tokens.shape[2] if tokens.ndim == 3 else config.text_encoder.dim,
        "text_length": config.tokenizer.max_length,
        "dtype": options.dtype,
        "nfe": options.nfe,
        "compile": options.compile,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="+", metavar="CONFIG[:ARGUMENT][@BATCH]")
    parser.add_argument("--torch_python", default=".venv-reference/bin/python", help="the Python that has torch")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--nfe", type=int, default=5, help="network calls of the sampler")
    parser.add_argument("--dtype", choices=TOLERANCE, default="float32")
    parser.add_argument("--compile", action="store_true", help="torch.compile, which on CPU needs a C++ compiler")
    parser.add_argument("--out", help="a JSON file for the figures")
    options = parser.parse_args()
    if not shutil.which(options.torch_python):
        raise SystemExit(f"error: no {options.torch_python}: `make reference` makes it")
    sys.path.insert(0, str(HERE.parent))  # configs import each other from there
    cases = [case_of(words, options) for words in options.configs]
    results = [compare(case, options.torch_python, options.rounds) for case in cases]
    if options.out:
        Path(options.out).write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
