"""sbatch: runs a copy of the script until nobody puts it back in the queue. FAKES/job.json tells how it ended."""

import json
import os
import shutil
import subprocess
from pathlib import Path

from _fake import STATE, called

JOB = "7"
flags, words = called(
    "sbatch",
    ["job-name", "nodes", "ntasks-per-node", "signal", "chdir", "output", "partition", "time", "cpus-per-task", "gres"],
)
copy = STATE / "slurm_script"
shutil.copy(words[0], copy)
tasks = int(flags["nodes"]) * int(flags["ntasks-per-node"])
environment = os.environ | {
    "SLURM_JOB_ID": JOB,
    "SLURM_JOB_NODELIST": "localhost",
    "SLURM_SUBMIT_DIR": os.getcwd(),
    "SLURM_NTASKS": str(tasks),
    "SLURM_JOB_NUM_NODES": flags["nodes"],
}
if "cpus-per-task" in flags:
    environment["SLURM_CPUS_PER_TASK"] = flags["cpus-per-task"]
log, requeue = Path(flags["output"].replace("%j", JOB)), STATE / "requeue"
print(f"Submitted batch job {JOB}", flush=True)

restarts = 0
while True:
    if restarts:
        environment["SLURM_RESTART_COUNT"] = str(restarts)
    with log.open("a") as output:
        process = subprocess.Popen(
            ["bash", str(copy), *words[1:]],
            env=environment,
            cwd=flags["chdir"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        (STATE / "batch.pid").write_text(str(process.pid))
        code = process.wait()
    if not requeue.exists():
        break
    requeue.unlink()
    restarts += 1
(STATE / "job.json").write_text(json.dumps({"code": code, "restarts": restarts, "log": log.read_text()}))
