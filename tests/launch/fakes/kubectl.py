"""kubectl with a cluster behind it: runs the pods of a JobSet here, as its controller would, until they end or give up.

A pod has the environment that its manifest says, and on TPU what GKE adds; the names of pods lead to this machine.
FAKES/jobset.json tells how it ended.
"""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import yaml
from _fake import STATE, called, signal_session

ROOT = Path(__file__).parents[3]  # the working directory of the image


def environment_of(pod, container, jobset, slice_index, slices, index, port):
    """What one pod sees. Where the manifest refers to a field, it is the pod's own number."""
    values = {}
    for entry in container.get("env", ()):
        if "value" in entry:
            values[entry["name"]] = entry["value"]
        else:
            path = entry["valueFrom"]["fieldRef"]["fieldPath"]
            assert path == "metadata.annotations['batch.kubernetes.io/job-completion-index']"
            values[entry["name"]] = str(index)
    if address := values.get("JAX_COORDINATOR_ADDRESS"):
        host, _, told = address.partition(":")
        name = jobset["metadata"]["name"]
        assert (host, int(told)) == (
            f"{name}-{jobset['spec']['replicatedJobs'][0]['name']}-0-0.{name}",
            container["ports"][0]["containerPort"],
        )
        values["JAX_COORDINATOR_ADDRESS"] = f"127.0.0.1:{port}"
    if "google.com/tpu" in container["resources"]["limits"]:
        values |= {
            "JAX_FORCE_TPU_INIT": "1",
            "TPU_WORKER_ID": str(index),
            "TPU_WORKER_HOSTNAMES": ",".join(["localhost"] * pod["completions"]),
            "MEGASCALE_COORDINATOR_ADDRESS": "localhost",
            "MEGASCALE_NUM_SLICES": str(slices),
            "MEGASCALE_SLICE_ID": str(slice_index),
            "JAX_COORDINATOR_PORT": str(port),
        }
    return os.environ | values


def attempt(jobset, port):
    """Runs all pods once: how the first job to fail did, or None."""
    pods, lines = [], []
    for job in jobset["spec"]["replicatedJobs"]:
        spec = job["template"]["spec"]
        (container,) = spec["template"]["spec"]["containers"]
        for slice_index in range(job["replicas"]):
            for index in range(spec["completions"]):
                process = subprocess.Popen(
                    container["command"],
                    env=environment_of(spec, container, jobset, slice_index, job["replicas"], index, port),
                    cwd=ROOT,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    start_new_session=True,
                )
                reader = threading.Thread(target=lambda stream=process.stdout: lines.extend(stream), daemon=True)
                reader.start()
                pods.append((process, reader, spec))
    failure = None
    while failure is None and None in [process.poll() for process, _, _ in pods]:
        time.sleep(0.1)
        failure = next((found for pod in pods if (found := failed(*pod))), None)
    failure = failure or next((found for pod in pods if (found := failed(*pod))), None)
    for process, reader, _ in pods:
        if process.poll() is None:
            signal_session(process.pid, 9)
        process.wait()
        reader.join(timeout=5)
    return failure, "".join(lines)


def failed(process, _, spec):
    """Why the job of this pod fails, if it does: no pod begins again alone."""
    code = process.poll()
    if not code:
        return None
    assert spec["backoffLimit"] == 0
    for rule in spec["podFailurePolicy"]["rules"]:
        if rule["action"] == "FailJob" and code in rule["onExitCodes"]["values"]:
            return "PodFailurePolicy"
    return "BackoffLimitExceeded"


def main():
    flags, words = called("kubectl", ["filename"], [])
    assert (words, flags) == (["create"], {"filename": "-"})
    jobset = yaml.safe_load(sys.stdin)
    print(f"jobset.jobset.x-k8s.io/{jobset['metadata']['name']} created", flush=True)
    policy, restarts, log, state = jobset["spec"]["failurePolicy"], 0, "", None
    while state is None:
        failure, said = attempt(jobset, 20000 + (os.getpid() + restarts) % 12000)
        log += said
        final = any(failure in r["onJobFailureReasons"] and r["action"] == "FailJobSet" for r in policy["rules"])
        if failure is None:
            state = "Completed"
        elif final or restarts >= policy["maxRestarts"]:
            state = "Failed"
        else:
            restarts += 1
    (STATE / "jobset.json").write_text(json.dumps({"state": state, "restarts": restarts, "log": log}))


main()
