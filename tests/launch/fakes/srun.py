"""srun: starts the tasks of the job here, each with what SLURM tells it, and kills the rest when one fails."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

from _fake import STATE, called, signal_session

flags, words = called("srun", ["kill-on-bad-exit", "cpus-per-task"], ["label"])
count = int(os.environ["SLURM_NTASKS"])


def show(task, stream):
    for line in stream:
        print(f"{task}: {line}" if "label" in flags else line, end="", flush=True)


def start(task):
    environment = os.environ | {
        "SLURM_PROCID": str(task),
        "SLURM_LOCALID": str(task),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_STEP_ID": "0",
    }
    return subprocess.Popen(
        words,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


tasks = [start(task) for task in range(count)]
(STATE / "step.json").write_text(json.dumps([task.pid for task in tasks]))
readers = [threading.Thread(target=show, args=(i, task.stdout), daemon=True) for i, task in enumerate(tasks)]
for reader in readers:
    reader.start()
while None in (codes := [task.poll() for task in tasks]):
    if any(codes) and flags.get("kill-on-bad-exit") == "1":
        for sent in (signal.SIGTERM, signal.SIGKILL):
            for task in tasks:
                signal_session(task.pid, sent)
            time.sleep(1)
    time.sleep(0.1)
for reader in readers:
    reader.join(timeout=5)
sys.exit(max(code if code >= 0 else 128 - code for code in codes))
