"""A question asked of many trainings: the arms of a sweep file, each with several seeds, each run in its own folder."""

from collections.abc import Sequence

from diffusion_jax.sweeps import local, measuring, one_program, plan, slurm, standings, table
from diffusion_jax.training import run_folder


def run(
    file: str,
    seeds: int,
    preset: str | None,
    workdir: str,
    data_dir: str,
    dry_run: bool = False,
    measure_only: bool = False,
    at_once: int = 1,
    launcher: str = "local",
    slurm_settings: Sequence[str] = (),
    together: bool = False,
) -> int:
    """Train and measure what is missing of a sweep, or print what that would be; returns the exit code.

    launcher: where runs are trained, "local" or "slurm", whose jobs have these settings, "name=value". at_once: runs
    or programs that are trained side by side, here. together: runs that differ in numbers only are one program, here.
    measure_only: what is trained is measured, and nothing is trained.
    0: all runs are done. 1: some failed. 128 + a signal's number: left, as that asked.
    Raises ValueError for a sweep file that makes no sweep, see `plan.read`; OSError where another process runs it.
    """
    planned = plan.read(file, seeds, preset, workdir)
    for each in planned.runs:
        local.config_file(each)  # raises before anything is written
    if dry_run:
        found = standings.found(planned)
        left = [number for number, standing in enumerate(found) if standing.state != "done"]
        lines = one_program.lines(planned, left) if together else []
        print("\n".join([*table.plan_lines(planned, found), *lines]))
        return 0
    if measure_only:
        return measuring.measure_all(planned, data_dir)
    if launcher == "slurm":
        if together:
            raise ValueError("--together is for one machine: leave it out with --launcher=slurm")
        slurm.check()
    planned.folder.mkdir(parents=True, exist_ok=True)
    with run_folder.lock(planned.folder):
        if launcher == "slurm":
            return slurm.run_all(planned, data_dir, slurm.settings_of(slurm_settings))
        return local.run_all(planned, data_dir, at_once, together)
