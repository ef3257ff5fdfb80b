"""The doctor finds what is well, names what is not, and says what to do."""

import json

import jax
import pytest

from diffusion_jax.__main__ import main
from diffusion_jax.commands import doctor


def found(check):
    """The findings of a check by their subject."""
    return {finding.subject: finding for finding in check}


@pytest.fixture
def healthy(monkeypatch, tmp_path):
    """A machine with nothing amiss, whatever this one is like."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "compile_cache", lambda: iter([doctor.Finding("compile cache", "here")]))
    monkeypatch.setattr(doctor, "host_memory", lambda: 8 * 2**30)
    monkeypatch.setattr(doctor, "MIN_FREE", 0)
    return ["doctor", "--data_dir=data", "--seconds=0"]


def test_a_healthy_machine_is_0_and_the_report_is_whole(healthy, capsys):
    assert main(healthy) == 0
    out = capsys.readouterr().out
    assert "8 x cpu" in out
    assert "data = 8 over 1 process\n" in out
    assert "all well" in out
    for subject in ("python", "jax", "transformers", "host memory", "run folder", "data sets", "matmul peak", "smoke"):
        assert f"\n{subject}" in f"\n{out}"
    assert main(healthy) == 0  # a second time in the same process


def test_a_folder_in_the_way_of_writing_is_1_with_advice(healthy, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    assert main([*healthy, "--workdir=file"]) == 1
    out = capsys.readouterr().out
    assert "run folder           file, not writable: Not a directory\n" in out
    assert "-> make" in out
    assert "1 thing to mend" in out


def test_a_check_that_breaks_is_a_fault_and_the_rest_goes_on(healthy, capsys, monkeypatch):
    def broken():
        raise RuntimeError("no backend\nof this kind")

    monkeypatch.setattr(doctor, "devices", broken)
    assert main(healthy) == 1
    out = capsys.readouterr().out
    assert "failed: RuntimeError: no backend of this kind" in out
    assert "matmul peak" in out


def test_little_memory_and_a_full_disk_are_faults(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "host_memory", lambda: 2**28)
    assert "smaller" in found(doctor.memory())["host memory"].advice
    monkeypatch.setattr(doctor, "MIN_FREE", 2**60)
    assert "free at least" in found(doctor.folder("run folder", tmp_path))["run folder"].advice


def test_old_and_missing_packages_are_faults(monkeypatch):
    installed = {"jax": "0.1", "optax": "99.0"}

    def version(name):
        if name not in installed:
            raise doctor.importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(doctor.importlib.metadata, "version", version)
    findings = found(doctor.versions())
    assert findings["jax"].advice.startswith('pip install --upgrade "jax>=')
    assert findings["optax"] == ("optax", "99.0", "")
    assert findings["flax"].text == "missing"
    assert "pip install" in findings["flax"].advice


def test_data_sets_are_counted_and_half_written_ones_are_faults(tmp_path):
    assert "none built" in found(doctor.datasets(tmp_path / "nowhere"))["data sets"].text
    good, bad = tmp_path / "emoji" / "1.0.0", tmp_path / "other" / "1.0.0"
    good.mkdir(parents=True)
    bad.mkdir(parents=True)
    splits = [{"name": "train", "shardLengths": ["3", "4"]}, {"name": "validation", "shardLengths": ["1"]}]
    (good / "dataset_info.json").write_text(json.dumps({"splits": splits}))
    (bad / "dataset_info.json").write_text('{"splits": [')
    findings = list(doctor.datasets(tmp_path))
    assert findings[0] == ("data set", "emoji/1.0.0: train 7, validation 1", "")
    assert "build it again" in findings[1].advice


def test_the_compile_cache_is_measured_and_its_absence_a_fault(tmp_path):
    before = jax.config.jax_compilation_cache_dir
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        assert "JAX_COMPILATION_CACHE_DIR" in found(doctor.compile_cache())["compile cache"].advice
        jax.config.update("jax_compilation_cache_dir", str(tmp_path))
        (tmp_path / "program").write_bytes(bytes(2**20))
        assert "1.0 MiB in it" in found(doctor.compile_cache())["compile cache"].text
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_training_that_does_not_work_is_a_fault(monkeypatch):
    for losses in ([1.0, float("nan")], [1.0, 2.0]):
        monkeypatch.setattr(doctor, "train_a_convolution", lambda seconds, losses=losses: (2, 1.0, losses))
        monkeypatch.setattr(doctor, "matmul_peak", lambda seconds: (8, "float32", 0.0))
        findings = found(doctor.smoke(0.0))
        assert "does not work" in findings["smoke step"].advice
        assert "wrong" in findings["matmul peak"].advice
