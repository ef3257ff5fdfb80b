"""Which checkpoints stay when one more is written."""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

METRIC = "metric"  # the item of a checkpoint that holds what it is judged by


class Retention(NamedTuple):
    """The newest `keep` stay, those whose step divides by keep_every (0: none), and the keep_best of lowest metric.

    metrics: by step, of the checkpoints that have one; it is added to as checkpoints are saved.
    """

    keep: int
    keep_every: int
    keep_best: int
    metrics: dict[int, float]

    def should_preserve(self, checkpoints: Sequence, *, context: object) -> list[bool]:
        """As Orbax asks it: for each of its records of a checkpoint, in the order of their steps."""
        steps = [checkpoint.step for checkpoint in checkpoints]
        stay = kept(steps, self.keep, self.keep_every, self.keep_best, self.metrics)
        return [step in stay for step in steps]


def kept(steps: Collection[int], keep: int, keep_every: int, keep_best: int, metrics: Mapping[int, float]) -> set[int]:
    """The steps that stay, of `steps`. Among equally good ones the newer is the better; not a number is the worst."""
    newest = sorted(steps)[-keep:] if keep else []
    every = [step for step in steps if keep_every and step % keep_every == 0]
    finite = [step for step in steps if math.isfinite(metrics.get(step, math.nan))]
    best = sorted(finite, key=lambda step: (metrics[step], -step))[:keep_best]
    return {*newest, *every, *best}


def read_metrics(folder: Path, steps: Collection[int]) -> dict[int, float]:
    """The metrics of those of the checkpoints `folder`/<step>/ that have one that can be read."""
    found = {}
    for step in steps:
        try:
            found[step] = float(json.loads((folder / str(step) / METRIC / "metadata").read_text())["value"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found
