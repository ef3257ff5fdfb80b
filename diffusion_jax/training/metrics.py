"""What a run says of itself: a JSON line a record, and the same numbers as TensorBoard events."""

import json
import os
import time
from pathlib import Path

import numpy as np


class MetricsLog:
    """Appends records to `metrics.jsonl` and to TensorBoard events in the folder of a run.

    Opened at `step`, it first drops the records after that step, which a killed run had written beyond its checkpoint:
    so a resumed run's log reads as if it had never stopped. A line cut short by a kill is dropped too.
    Everything is written at once, so nothing is lost with the process; a full disk raises OSError.
    """

    def __init__(self, folder: Path, step: int):
        from tensorboardX.event_file_writer import EventsWriter  # here: a second of imports
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self.path = folder / "metrics.jsonl"
        kept = [record for record in read_metrics(self.path) if record["step"] <= step] if self.path.exists() else []
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(record) + "\n" for record in kept))
        temporary.replace(self.path)
        self._file = open(self.path, "a")  # noqa: SIM115  (open for the life of the run)
        (folder / "tensorboard").mkdir(exist_ok=True)
        self._event = Event
        # tensorboardX's own SummaryWriter writes from a thread: on a full disk that dies, and the run then hangs
        self._events = EventsWriter(str(folder / "tensorboard" / "events"), f".{os.getpid()}.{time.time_ns()}")
        # TensorBoard hides what it has read of the steps from here on
        start = SessionLog(status=SessionLog.START)
        self._events.write_event(Event(step=step + 1, wall_time=time.time(), session_log=start))

    def write(self, step: int, values: dict) -> None:
        """Append one record: scalars, or lists of numbers (those go to the JSON lines alone)."""
        from tensorboardX.summary import scalar

        plain = {name: np.asarray(value).astype(float).tolist() for name, value in values.items()}
        self._file.write(json.dumps({"step": step} | plain) + "\n")
        self._file.flush()
        for name, value in plain.items():
            if isinstance(value, float):
                self._events.write_event(self._event(step=step, wall_time=time.time(), summary=scalar(name, value)))
        self._events.flush()

    def close(self) -> None:
        """Flush everything to the disk."""
        try:
            os.fsync(self._file.fileno())
        finally:
            self._file.close()
            self._events.close()


def read_metrics(path: Path) -> list[dict]:
    """The records of a metrics file, without lines that were cut short."""
    records = []
    for line in Path(path).read_text("utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict) and "step" in record:
            records.append(record)
    return records
