"""The runs of a sweep as jobs of SLURM, an array of them through submitit; the sweep itself waits, and watches.

A job that is preempted or runs out of time saves its run and goes back into the queue. Jobs outlive the sweep: the same
command finds those again that it has submitted, by submitted.json.
"""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from diffusion_jax.files import write_json
from diffusion_jax.sweeps import board, local, measuring
from diffusion_jax.sweeps.plan import Plan, Run

SUBMITTED = "submitted.json"
EVERY = 10.0  # seconds between two looks at the jobs
SAVING = 75  # seconds that a run has to be saved in, of the 90 between SLURM's warning and the end
_children: list[subprocess.Popen] = []  # of this job: what `checkpoint` asks to leave


class Words(NamedTuple):
    """A command in a job, as submitit pickles it; log: where its output goes, of each task into its own file."""

    words: tuple[str, ...]
    log: str

    def __call__(self) -> int:
        """Run the command; returns its exit code."""
        task, tasks = (
            os.environ.get(name, default) for name, default in (("SLURM_PROCID", "0"), ("SLURM_NTASKS", "1"))
        )
        together = {"DIFFUSION_JAX_CLUSTER": "slurm"} if int(tasks) > 1 else {}
        log = self.log if task == "0" else f"{self.log}.{task}"
        with open(log, "ab") as file:
            how = local.apart(file) | dict(env=os.environ | together, preexec_fn=_deaf)
            with subprocess.Popen(self.words, **how) as child:
                _children[:] = [child]
                return child.wait()

    def checkpoint(self):
        """What submitit calls before a job is taken away: the run is saved, and the same command comes again."""
        for child in _children:
            child.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(timeout=SAVING)
        return _submitit().helpers.DelayedSubmission(self)


def _deaf() -> None:
    """Let the command not die of the warning, which is for the job around it."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


def settings_of(told: Sequence[str]) -> dict:
    """submitit's parameters of jobs from "name=value", numbers as such. Raises ValueError for what has no "="."""
    made = {}
    for each in told:
        name, equals, value = each.partition("=")
        if not equals or not name:
            raise ValueError(f"--slurm={each}: write name=value, such as timeout_min=600,gpus_per_node=8")
        made[name] = int(value) if value.isdigit() else value
    return made


def check() -> None:
    """Raises ValueError unless submitit is installed and a SLURM answers from here."""
    _submitit()
    try:
        asked = subprocess.run(["sinfo", "--noheader"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ValueError(f"--launcher=slurm: there is no SLURM to submit to from here: {error}") from error
    if asked.returncode:
        said = (asked.stderr.strip().splitlines() or ["sinfo failed, and said nothing"])[-1]
        raise ValueError(f"--launcher=slurm: there is no SLURM to submit to from here: {said}")


def executor(plan: Plan, settings: dict, cluster: str = "slurm"):
    """submitit's way to submit jobs of this sweep, whose files lie in its folder.

    Raises ValueError where submitit is not installed, there is no SLURM, or it does not know a setting.
    """
    submitit = _submitit()
    try:
        made = submitit.AutoExecutor(folder=plan.folder / "submitit", cluster=cluster)
        made.update_parameters(name=plan.question, **settings)
    except (RuntimeError, NameError, TypeError, ValueError) as error:
        raise ValueError(f"--launcher=slurm: {str(error).splitlines()[0]}") from error
    return made


def _submitit():
    """submitit, kept from configuring this process's logging: that closes handlers which are others'."""
    before = os.environ.get("SUBMITIT_LOG_LEVEL")
    os.environ["SUBMITIT_LOG_LEVEL"] = "NOCONFIG"
    try:
        import submitit
    except ImportError:
        raise ValueError("--launcher=slurm needs submitit: pip install 'diffusion_jax[slurm]'") from None
    finally:
        del os.environ["SUBMITIT_LOG_LEVEL"]
        if before is not None:
            os.environ["SUBMITIT_LOG_LEVEL"] = before
    return submitit


def run_all(plan: Plan, data_dir: str, settings: dict, make: Callable = executor) -> int:
    """Submit every run that is not done and that no job has, wait for all, then measure them in one job more.

    Returns the exit code, see `sweeps.run`. SIGTERM and Ctrl-C end the waiting, not the jobs.
    """
    by = make(plan, settings)
    with local.passing_on() as (_, received):
        with board.shown(plan, lambda: False) as told:
            homes = {plan.runs[number].folder: number for number in reversed(told.waiting)}
            jobs = submitted(by, plan, sorted(homes.values()), data_dir)
            for number in jobs:
                told.begin([number])
            while jobs and not received:
                for number in [number for number, job in jobs.items() if job.done()]:
                    told.end([number], code_of(jobs.pop(number)))
                told.look()
                time.sleep(EVERY if jobs else 0)
            if not received:
                for number in sorted(set(told.waiting) - set(homes.values())):
                    told.shared(number, 1)
        unmeasured = 0
        if not received and measuring.left(plan):
            log = plan.folder / "measuring.txt"
            unmeasured = code_of(by.submit(Words(tuple(measuring.words(plan, data_dir)), str(log))))
            print(f"measured; {log} says how", flush=True)
        told.summary()
    if received:
        print("no longer watched: the jobs go on, and the same command watches them again", flush=True)
        return 128 + received[0]
    (plan.folder / SUBMITTED).unlink(missing_ok=True)
    return int(told.failed() or bool(unmeasured))


def submitted(by, plan: Plan, numbers: Sequence[int], data_dir: str) -> dict:
    """For each of these runs its job: one that is still there from before, or one of a new array."""
    before = _before(plan)
    there = {number: before[key] for number in numbers if (key := _key(plan, plan.runs[number])) in before}
    jobs = {number: by._executor.job_class(by.folder, job_id) for number, job_id in there.items()}
    jobs = {number: job for number, job in jobs.items() if not job.done(force_check=True)}
    new = [number for number in numbers if number not in jobs]
    for number in new:
        local.open_log(plan.runs[number]).close()
    if new:
        with by.batch():
            jobs |= {number: by.submit(words_of(plan.runs[number], data_dir)) for number in new}
    known = {_key(plan, plan.runs[number]): job.job_id for number, job in sorted(jobs.items())}
    write_json(plan.folder / SUBMITTED, known)
    return dict(sorted(jobs.items()))


def words_of(run: Run, data_dir: str) -> Words:
    """The command that trains a run, in a job. The log is absolute: jobs may begin in another folder."""
    return Words(tuple(local.command(run, data_dir)), str(Path(run.folder / "log.txt").absolute()))


def code_of(job) -> int:
    """The exit code of a job's command, waited for; 1 where the job itself failed."""
    try:
        return int(job.result())
    except Exception:  # submitit raises what the job raised, or its own: the run's log, or submitit's, says why
        return 1


def _before(plan: Plan) -> dict[str, str]:
    with contextlib.suppress(OSError, ValueError):
        return json.loads((plan.folder / SUBMITTED).read_text())
    return {}


def _key(plan: Plan, run: Run) -> str:
    return str(run.folder.relative_to(plan.folder))
