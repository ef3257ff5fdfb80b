"""The file of XLA flags: this jaxlib knows every one, and what the user has set wins."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "launch" / "xla_flags"
GPU = sorted(set(re.findall(r"^ +(?:# )?(--xla_gpu_\w+=\S+)$", FILE.read_text(), flags=re.MULTILINE)))


def sourced(name, **environment):
    """The value of a variable after the file was sourced by a strict shell."""
    command = ["bash", "-euc", f'source "{FILE}"; printf %s "${name}"']
    return subprocess.run(
        command, env={"PATH": os.environ["PATH"], **environment}, check=True, capture_output=True, text=True
    ).stdout


def with_flags(flags):
    """A process that compiles something under these flags."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_COMPILATION_CACHE")}
    program = "import jax; print(int(jax.jit(lambda x: x + 1)(1)), jax.device_count())"
    environment |= {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    return subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)


def test_this_jaxlib_knows_each_flag_also_those_left_to_the_reader():
    assert len(GPU) == 7
    done = with_flags(" ".join(GPU))
    assert (done.returncode, done.stdout) == (0, "2 1\n"), done.stderr[-2000:]


def test_an_unknown_flag_would_be_noticed():
    done = with_flags(f"{GPU[0]} --xla_gpu_enable_latency_hiding_sheduler=true")
    assert done.returncode != 0
    assert "Unknown flag" in done.stderr


def test_what_is_set_already_comes_last_and_counts():
    flags = sourced(
        "XLA_FLAGS", XLA_FLAGS="--xla_force_host_platform_device_count=3 --xla_gpu_nccl_terminate_on_error=false"
    )
    assert flags.endswith("--xla_force_host_platform_device_count=3 --xla_gpu_nccl_terminate_on_error=false")
    assert set(flags.split()) <= {*GPU, *flags.split()[-2:]}
    done = with_flags(flags)
    assert (done.returncode, done.stdout) == (0, "2 3\n"), done.stderr[-2000:]


def test_flags_for_tpu_are_told_to_tpus_alone():
    assert "tpu" not in sourced("XLA_FLAGS")
    tpu = sourced("LIBTPU_INIT_ARGS", LIBTPU_INIT_ARGS="--mine=1").split()
    assert all(re.fullmatch(r"--xla_(tpu_|enable_async_)\w+=true", flag) for flag in tpu[:-1])
    assert len(tpu) == 8
    assert tpu[-1] == "--mine=1"


@pytest.mark.parametrize("name", ["gpu_flags", "tpu_flags"])
def test_no_other_variable_is_left(name):
    with pytest.raises(subprocess.CalledProcessError):
        sourced(name)


def test_each_flag_has_its_reason_above_it():
    lines = [line.strip() for line in FILE.read_text().splitlines()]
    flags = [i for i, line in enumerate(lines) if re.match(r"(# )?--xla_\w+=", line)]
    assert len(flags) == len(GPU) + 7
    for i in flags:
        above = i - 1
        while lines[above].startswith("--"):
            above -= 1
        assert lines[above].startswith("# "), lines[i]
