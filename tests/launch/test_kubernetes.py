"""launch/kubernetes: manifests that Kubernetes would take, and what becomes of their pods under a small stand-in."""

import copy
import json
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

SUBMIT = "launch/kubernetes/submit"
SCHEMA = json.loads((Path(__file__).parent / "jobset.json").read_text())
KUBERNETES = ("1.30", "1.34")


def check(jobset):
    """Raises where a field is unknown, of a wrong kind, or missing: of the JobSet, its jobs, their pods."""
    jsonschema.Draft202012Validator(SCHEMA).validate(jobset)
    for job in jobset["spec"]["replicatedJobs"]:
        whole = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": job["name"]}, **job["template"]}
        for version in KUBERNETES:
            kubernetes_validate.validate(whole, version, strict=True)


@pytest.fixture
def manifest(machine):
    def filled(kind, *words):
        result = machine.call(SUBMIT, "--dry-run", kind, *words)
        assert result.code == 0, result.err
        first, _, text = result.out.partition("\n")
        assert first == "kubectl create --filename=-"
        assert "${" not in text
        return yaml.safe_load(text)

    return filled


@pytest.mark.parametrize("kind", ["gpu", "tpu"])
def test_manifests_are_valid(machine, manifest, kind):
    jobset = manifest(kind, "--", "train", "--names=('a: b',)")
    check(jobset)
    (job,) = jobset["spec"]["replicatedJobs"]
    pod = job["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"] == ["bash", "-c", "source launch/xla_flags && exec train '--names=('\\''a: b'\\'',)'"]
    assert not machine.calls("kubectl")

    # what the API server asks beyond the schemas
    policy = job["template"]["spec"]["podFailurePolicy"]
    assert pod["restartPolicy"] == "Never"  # else no podFailurePolicy
    assert [rule["onExitCodes"]["containerName"] for rule in policy["rules"]] == [container["name"]]
    assert [rule["onExitCodes"]["values"] for rule in policy["rules"]] == [[1, 2]]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    longest = f"{'r' * 40}-{job['name']}-{job['replicas']}-9999-abcde"  # RUN_NAME has at most 40 letters
    assert len(longest) <= 63


@pytest.mark.parametrize("kind", ["gpu", "tpu"])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda jobset: jobset["spec"].update(restartPolicy="Never"),
        lambda jobset: jobset["spec"]["failurePolicy"].update(maxRestarts="10"),
        lambda jobset: jobset["spec"]["failurePolicy"]["rules"][0].update(action="Fail"),
        lambda jobset: job_of(jobset).update(backofLimit=0),
        lambda jobset: job_of(jobset)["podFailurePolicy"]["rules"][0].update(exitCodes=[1]),
        lambda jobset: pod_of(jobset).update(terminationGracePeriod=5),
        lambda jobset: pod_of(jobset)["containers"][0].update(envs=[]),
        lambda jobset: pod_of(jobset)["containers"][0].update(command="train"),
        lambda jobset: pod_of(jobset)["containers"][0]["env"][0].update(value=2),
        lambda jobset: pod_of(jobset)["volumes"][0]["persistentVolumeClaim"].update(claim="share"),
    ],
)
def test_the_check_finds_mistakes(manifest, kind, spoil):
    jobset = copy.deepcopy(manifest(kind))
    spoil(jobset)
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        check(jobset)


def job_of(jobset):
    return jobset["spec"]["replicatedJobs"][0]["template"]["spec"]


def pod_of(jobset):
    return job_of(jobset)["template"]["spec"]


def test_settings_reach_the_manifest(machine, manifest):
    machine.settings(PODS="16", GPUS_PER_POD="4", RESTARTS="7", SAVE_SECONDS="90", RUN_NAME="big")
    gpu = manifest("gpu")
    assert gpu["metadata"]["name"] == "big"
    assert gpu["spec"]["failurePolicy"]["maxRestarts"] == 7
    assert (job_of(gpu)["parallelism"], job_of(gpu)["completions"]) == (16, 16)
    assert pod_of(gpu)["terminationGracePeriodSeconds"] == 90
    assert pod_of(gpu)["containers"][0]["resources"] == {"limits": {"nvidia.com/gpu": 4}}
    values = {entry["name"]: entry.get("value") for entry in pod_of(gpu)["containers"][0]["env"]}
    assert values["JAX_COORDINATOR_ADDRESS"] == "big-worker-0-0.big:8476"
    assert values["JAX_NUM_PROCESSES"] == "16"

    machine.settings(SLICES="3", HOSTS_PER_SLICE="8", CHIPS_PER_HOST="4", TPU_TOPOLOGY="8x4")
    tpu = manifest("tpu")
    assert tpu["spec"]["replicatedJobs"][0]["replicas"] == 3
    assert (job_of(tpu)["parallelism"], job_of(tpu)["completions"]) == (8, 8)
    assert pod_of(tpu)["containers"][0]["resources"] == {"limits": {"google.com/tpu": 4}}
    assert pod_of(tpu)["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "8x4",
    }


@pytest.mark.parametrize(
    ("about", "changes", "words"),
    [
        ("takes gpu or tpu, and got ''", {}, []),
        ("takes gpu or tpu, and got 'cpu'", {}, ["cpu"]),
        ("takes gpu or tpu, and got 'gpu tpu'", {}, ["gpu", "tpu"]),
        ("sets no IMAGE PODS", {"IMAGE": None, "PODS": None}, ["gpu"]),
        ("sets no TRAIN", {"TRAIN": None}, ["gpu"]),
        ("PODS is '0'", {"PODS": "0"}, ["gpu"]),
        ("RUN_NAME is 'a_b'", {"RUN_NAME": "a_b"}, ["tpu"]),
        ("VOLUME_CLAIM is 'a: b'", {"VOLUME_CLAIM": "'a: b'"}, ["gpu"]),
    ],
)
def test_wrong_settings_are_one_line(machine, refused, about, changes, words):
    machine.settings(**changes)
    refused(about, SUBMIT, *words)


def test_no_kubectl_is_one_line(machine, refused):
    (machine.programs / "kubectl").unlink()
    refused("no program kubectl", SUBMIT, "gpu")


@pytest.fixture
def ended(machine):
    def run(kind, *words):
        result = machine.call(SUBMIT, kind, "--", *words)
        assert result.code == 0, result.err
        assert result.out == "jobset.jobset.x-k8s.io/trial created\n"
        return json.loads((machine.state / "jobset.json").read_text())

    return run


@pytest.mark.parametrize("kind", ["gpu", "tpu"])
def test_pods_join_and_after_a_killed_one_all_begin_again(ended, standin, tmp_path, kind):
    end = ended(kind, *standin, tmp_path, "1:kill")
    assert (end["state"], end["restarts"]) == ("Completed", 1), end["log"]
    for i in (0, 1):
        assert end["log"].count(f"process {i} of 2 on 2 devices gathered [1, 2]") == 2


@pytest.mark.parametrize(("code", "restarts"), [(1, 0), (2, 0), (75, 2), (143, 2)])
def test_the_code_decides(ended, code, restarts):
    end = ended("gpu", "bash", "-c", f"exit {code}")
    assert (end["state"], end["restarts"]) == ("Failed", restarts)
