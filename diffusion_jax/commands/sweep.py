"""Ask a question: train every arm of a sweep file with several seeds, or go on with that.

Examples:

  diffusion-jax sweep experiments/ablations/prediction.py
  diffusion-jax sweep experiments/ablations/prediction.py --seeds=3 --workdir=runs/sweeps
  diffusion-jax sweep experiments/ablations/prediction.py --preset=full --dry_run
  diffusion-jax sweep experiments/ablations/prediction.py --at_once=2
  diffusion-jax sweep experiments/ablations/null.py --together
  diffusion-jax sweep experiments/ablations/prediction.py --launcher=slurm --slurm=timeout_min=600,gpus_per_node=8

A sweep file has a docstring, get_config() and sweep(add), which calls add(name, **changes) for each arm. Runs lie in
WORKDIR/FILE/ARM-DIGEST/seed_K: the same command goes on with what is not done, and a new arm leaves the others alone.
When all are trained they are measured, as config.figures says. `diffusion-jax report` makes a page of that.
SIGTERM and Ctrl-C save first, and leave with exit code 143 or 130. Exit code 1: some runs failed, the others are done.
"""

from absl import flags


def define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_integer("seeds", 5, "Trainings of each arm, with seeds 0, 1, 2, ...", flag_values=values)
    flags.DEFINE_enum("launcher", "local", ["local", "slurm"], "Where runs are trained.", flag_values=values)
    flags.DEFINE_enum("preset", None, ["cpu", "full"], "For get_config(preset); without it, cpu.", flag_values=values)
    flags.DEFINE_string("workdir", "runs/sweeps", "Folder of the sweeps.", flag_values=values)
    flags.DEFINE_string("data_dir", "data", "Folder of the data sets.", flag_values=values)
    flags.DEFINE_list("slurm", [], "submitit's parameters of a job, as NAME=VALUE.", flag_values=values)
    flags.DEFINE_integer("at_once", 1, "Runs trained side by side.", lower_bound=1, flag_values=values)
    flags.DEFINE_bool("together", False, "Train runs that differ in numbers only in one program.", flag_values=values)
    flags.DEFINE_bool("measure_only", False, "Measure what is trained, train nothing.", flag_values=values)
    flags.DEFINE_bool("dry_run", False, "Print the arms and where the runs stand, and stop.", flag_values=values)


def run(args: flags.FlagValues, file: str) -> int:
    from diffusion_jax import sweeps

    what = (file, args.seeds, args.preset, args.workdir, args.data_dir)
    return sweeps.run(*what, args.dry_run, args.measure_only, args.at_once, args.launcher, args.slurm, args.together)
