"""What a launcher starts in place of a training: joins its group, gathers a number of everyone, leaves as it is told.

    standin.py FOLDER [FATE...]

Attempt k of a process meets the k-th FATE, and after the last one it ends well: "75" (all leave with that code),
"1:kill" (process 1 kills itself, the others hang), "0:1" (process 0 leaves with code 1, the others hang), "wait" (for
SIGTERM, and leaves with 143). FOLDER/attempts.I has a line for each attempt of process I.
"""

import os
import signal
import sys
import time
from pathlib import Path


def main(folder, *fates):
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    known = {}
    if "JAX_COORDINATOR_ADDRESS" in os.environ:
        known = dict(num_processes=int(os.environ["JAX_NUM_PROCESSES"]), process_id=int(os.environ["JAX_PROCESS_ID"]))
    jax.distributed.initialize(**known, initialization_timeout=60)
    numbers = multihost_utils.process_allgather(np.array([jax.process_index() + 1])).ravel().tolist()
    me = jax.process_index()
    print(f"process {me} of {jax.process_count()} on {jax.device_count()} devices gathered {numbers}", flush=True)

    record = Path(folder) / f"attempts.{me}"
    attempt = len(record.read_text().splitlines()) if record.exists() else 0
    with record.open("a") as file:
        file.write(f"{numbers}\n")
    fate = fates[attempt] if attempt < len(fates) else "0"
    if fate == "wait":
        signal.signal(signal.SIGTERM, lambda *_: leave(folder, me))
        (Path(folder) / f"waits.{me}").touch()
        time.sleep(300)
    who, _, code = fate.rpartition(":")
    if who and int(who) != me:
        time.sleep(300)
    if code == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    jax.distributed.shutdown() if code == "0" else os._exit(int(code))


def leave(folder, me):
    (Path(folder) / f"saved.{me}").touch()
    os._exit(143)


if __name__ == "__main__":
    main(*sys.argv[1:])
