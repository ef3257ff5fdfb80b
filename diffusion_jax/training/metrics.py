"""What a run says of itself: a JSON line a record, and the same numbers as TensorBoard events."""

import json
import os
from pathlib import Path

import numpy as np


class MetricsLog:
    """Appends records to `metrics.jsonl` and to TensorBoard events in the folder of a run.

    Opened at `step`, it first drops the records after that step, which a killed run had written beyond its checkpoint:
    so a resumed run's log reads as if it had never stopped. A line cut short by a kill is dropped too.
    """

    def __init__(self, folder: Path, step: int):
        from tensorboardX import SummaryWriter

        self.path = folder / "metrics.jsonl"
        kept = [record for record in read_metrics(self.path) if record["step"] <= step] if self.path.exists() else []
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(record) + "\n" for record in kept))
        temporary.rename(self.path)
        self._file = open(self.path, "a")  # noqa: SIM115  (open for the life of the run)
        self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)

    def write(self, step: int, values: dict) -> None:
        """Append one record: scalars, or lists of numbers (those go to the JSON lines alone)."""
        plain = {name: np.asarray(value).astype(float).tolist() for name, value in values.items()}
        self._file.write(json.dumps({"step": step} | plain) + "\n")
        self._file.flush()
        for name, value in plain.items():
            if isinstance(value, float):
                self._events.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush everything to the disk."""
        os.fsync(self._file.fileno())
        self._file.close()
        self._events.close()


def read_metrics(path: Path) -> list[dict]:
    """The records of a metrics file, without a last line that was cut short."""
    records = []
    for line in Path(path).read_text().splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records
