"""The log of a run: whole after a kill, cut back to the checkpoint on resuming, and never a thread that hangs."""

import json
import resource
import threading

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from diffusion_jax.training.metrics import MetricsLog, read_metrics


def events(folder):
    """The TensorBoard events of a run folder, in the order of its files: each is length, checksum, bytes, checksum."""
    found = []
    for path in sorted((folder / "tensorboard").iterdir(), key=lambda path: path.name.split(".")[-1]):
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            found.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return found


def test_records_are_there_at_once_in_both_forms(tmp_path):
    threads = threading.active_count()
    log = MetricsLog(tmp_path, 0)
    log.write(10, {"train/loss": np.float32(0.5), "validation/by_level": np.arange(2.0)})
    assert read_metrics(tmp_path / "metrics.jsonl") == [
        {"step": 10, "train/loss": 0.5, "validation/by_level": [0.0, 1.0]}
    ]
    last = events(tmp_path)[-1]
    assert (last.step, last.summary.value[0].tag, last.summary.value[0].simple_value) == (10, "train/loss", 0.5)
    assert threading.active_count() == threads
    log.close()


def test_resuming_drops_what_lies_beyond_the_checkpoint(tmp_path):
    log = MetricsLog(tmp_path, 0)
    for step in (5, 10, 15, 20):
        log.write(step, {"train/loss": float(step)})
    log.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 25, "train/lo')  # a kill in the middle of a line
    log = MetricsLog(tmp_path, 10)
    assert [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl")] == [5, 10]
    log.write(15, {"train/loss": 1.0})
    log.close()
    assert [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl")] == [5, 10, 15]
    starts = [event.step for event in events(tmp_path) if event.session_log.status == SessionLog.START]
    assert starts == [1, 11]  # TensorBoard shows nothing older from there on
    assert not list(tmp_path.glob("*.tmp"))


def test_a_run_killed_before_its_first_checkpoint_begins_with_an_empty_log(tmp_path):
    log = MetricsLog(tmp_path, 0)
    log.write(5, {"train/loss": 1.0})
    log.close()
    MetricsLog(tmp_path, 0).close()
    assert read_metrics(tmp_path / "metrics.jsonl") == []


@pytest.mark.parametrize("garbage", [b"\xff\xfe\x00", b"3\n", b'{"other": 1}\n', b"null\n", b"\n\n", b'{"step": 1'])
def test_garbage_in_the_log_is_no_reason_to_stop(tmp_path, garbage):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 3}\n' + garbage)
    log = MetricsLog(tmp_path, 3)
    log.write(4, {"a": 1.0})
    log.close()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [3, 4]


def write_many(log):
    for step in range(1000):
        log.write(step, {"train/loss": 0.5})


def test_a_full_disk_is_an_error_and_no_hanging_thread(tmp_path):
    log = MetricsLog(tmp_path, 0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_many(log)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    log.close()
    steps = [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl")]
    assert steps == list(range(len(steps)))
    assert len(steps) > 5
