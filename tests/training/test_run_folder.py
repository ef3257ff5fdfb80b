"""A run folder is held by one training at a time, and says what it is of."""

import subprocess
import sys

import pytest

from diffusion_jax.training import run_folder


def test_one_trainer_for_each_folder(tmp_path):
    line = f"another process trains in {tmp_path}: wait for it, or choose another --workdir"
    with run_folder.lock(tmp_path), pytest.raises(OSError, match=line):
        run_folder.lock(tmp_path)
    run_folder.lock(tmp_path).close()


HOLD = (
    "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); input()"
)


def test_the_lock_goes_with_a_killed_process(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(OSError, match="another process trains"):
            run_folder.lock(tmp_path)
        holder.kill()
    run_folder.lock(tmp_path).close()


@pytest.mark.parametrize(("text", "error"), [("{", "is damaged"), ("[1]", "holds no config"), ("\xff", "is damaged")])
def test_a_damaged_config(tmp_path, text, error):
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=error):
        run_folder.read_config(tmp_path)


def test_no_config(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no run folder: it holds no config"):
        run_folder.read_config(tmp_path)
