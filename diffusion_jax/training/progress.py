"""How far is it? A bar on a terminal; in a file or a pipe, a line now and then."""

import datetime
import sys
from collections.abc import Callable
from typing import NamedTuple, TextIO

from tqdm import tqdm

from diffusion_jax.training import together


class Progress(NamedTuple):
    """tick: () after each step. note: (step, loss, images_per_second). say: (line) beside the bar. close: ()."""

    tick: Callable
    note: Callable
    say: Callable
    close: Callable


def progress(total: int, done: int, batch_size: int, file: TextIO | None = None) -> Progress:
    """For `done` of `total` steps; the time to go is in both forms. file: told instead of this process's output."""
    on_terminal = file is None and sys.stderr.isatty() and together.first()
    bar = tqdm(total=total, initial=done, unit="step", smoothing=0.02, disable=not on_terminal, dynamic_ncols=True)

    def note(step: int, loss: float, images_per_second: float) -> None:
        figures = f"loss {loss:.4f}, {images_per_second:,.0f} images/s"
        if on_terminal:
            bar.set_postfix_str(figures)
            return
        to_go = f", {duration((total - step) * batch_size / images_per_second)} to go" if images_per_second else ""
        print(f"step {step}/{total}, {figures}{to_go}", file=file, flush=True)

    def say(line: str) -> None:
        bar.write(line) if on_terminal else print(line, file=file, flush=True)

    return Progress(lambda: bar.update(1), note, say, bar.close)


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, or days before them."""
    return str(datetime.timedelta(seconds=round(seconds)))
