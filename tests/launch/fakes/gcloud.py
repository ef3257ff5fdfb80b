"""gcloud, as far as launch/tpu goes: a queue of one resource, and machines that are folders of FAKES.

FAKES/tpu.json has {"state": what the queue says, "machines": how many there are}; it is not there before `create`.
FAKES/fate has a line for what becomes of each call of ssh that trains: "taken" loses the machines under it. On every
machine a command runs with the environment that GKE gives to the one machine of a slice: JAX finds the others.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
import time

from _fake import STATE, called, signal_session

TPU, FATE = STATE / "tpu.json", STATE / "fate"
PLACE = ["project", "zone"]
SSH = [*PLACE, "node", "worker", "batch-size", "command"]
FLAGS = {  # of gcloud 528, as its help has them
    "create": ([*PLACE, "accelerator-type", "runtime-version", "node-id", "node-count", "node-prefix"],
               ["spot", "reserved", "async"]),
    "describe": ([*PLACE, "format"], []),
    "delete": (PLACE, ["force", "quiet", "async"]),
    "scp": ([*PLACE, "node", "worker", "batch-size"], ["quiet", "tunnel-through-iap", "internal-ip"]),
    "ssh": (SSH, ["quiet", "tunnel-through-iap", "internal-ip"]),
}  # fmt: skip


def write(**facts):
    TPU.write_text(json.dumps(facts))


def describe(name):
    if not TPU.exists():
        sys.exit(f"ERROR: (gcloud.compute.tpus.queued-resources.describe) NOT_FOUND: Resource '{name}' was not found")
    facts = json.loads(TPU.read_text())
    print(facts["state"])
    after = {"WAITING_FOR_RESOURCES": "PROVISIONING", "PROVISIONING": "ACTIVE", "SUSPENDING": "SUSPENDED"}
    write(**facts | {"state": after.get(facts["state"], facts["state"])})


def machines():
    facts = json.loads(TPU.read_text()) if TPU.exists() else {"state": None}
    if facts["state"] != "ACTIVE":
        sys.exit("ERROR: (gcloud.compute.tpus.queued-resources.ssh) the TPU is not in state READY")
    homes = [STATE / f"machine{i}" for i in range(facts["machines"])]
    for home in homes:
        home.mkdir(exist_ok=True)
    return homes


def show(stream):
    for line in stream:
        print(line, end="", flush=True)


def ssh(command):
    homes = machines()
    trains = "launch/process --alone" in command
    fates = FATE.read_text().split() if trains and FATE.exists() else []
    if fates:
        FATE.write_text(" ".join(fates[1:]))
    port = str(20000 + os.getpid() % 12000)
    processes = []
    for i, home in enumerate(homes):
        environment = os.environ | {
            "HOME": str(home),
            "MACHINE": str(i),
            "JAX_FORCE_TPU_INIT": "1",
            "TPU_WORKER_ID": "0",
            "TPU_WORKER_HOSTNAMES": "localhost",
            "MEGASCALE_COORDINATOR_ADDRESS": "localhost",
            "MEGASCALE_NUM_SLICES": str(len(homes)),
            "MEGASCALE_SLICE_ID": str(i),
            "JAX_COORDINATOR_PORT": port,
        }
        processes.append(
            subprocess.Popen(
                ["bash", "-c", command],
                env=environment,
                cwd=home,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        )
    if fates[:1] == ["taken"]:
        threading.Thread(target=take, args=(processes, homes), daemon=True).start()
    readers = [threading.Thread(target=show, args=(process.stdout,), daemon=True) for process in processes]
    for reader in readers:
        reader.start()
    codes = [process.wait() for process in processes]
    for reader in readers:
        reader.join(timeout=5)
    # As the real one does: a machine that is gone under its connection is ssh's own 255.
    sys.exit(next((255 if code < 0 else code for code in codes if code), 0))


def take(processes, homes):
    """A preemption: once the first machine says that it runs, all are gone, and what lay on them."""
    while not (STATE / "runs").exists():
        time.sleep(0.05)
    (STATE / "runs").unlink()
    write(**json.loads(TPU.read_text()) | {"state": "SUSPENDING"})
    for process in processes:
        signal_session(process.pid, 9)
    for home in homes:
        shutil.rmtree(home, ignore_errors=True)


def main():
    group, verb = sys.argv[1:4], sys.argv[4]
    assert group == ["compute", "tpus", "queued-resources"]
    flags, words = called("gcloud", *FLAGS[verb])
    words = words[4:]
    if verb == "create":
        write(state="WAITING_FOR_RESOURCES", machines=int(flags.get("node-count", 2)))
    elif verb == "describe":
        describe(*words)
    elif verb == "delete":
        TPU.unlink()
    elif verb == "scp":
        source, target = words
        for home in machines():
            shutil.copy(source, home / target.partition(":")[2])
    elif verb == "ssh":
        ssh(flags["command"])


main()
