"""Train a model, or go on with its training: the same command does both.

Examples:

  diffusion-jax train --config=experiments/emoji32.py --workdir=runs/a
  diffusion-jax train --config=experiments/emoji32.py --config.batch_size=128 --workdir=runs/b
  diffusion-jax train --config=experiments/adm64.py --dry_run

Killed in whatever way, the same command goes on from the newest checkpoint. SIGTERM and Ctrl-C save first, and leave
with exit code 143 or 130; a second Ctrl-C leaves at once. Exit code 75: a process is lost, never came, or stood still,
and starting all again is what it takes. launch/ starts several processes, here or on a cluster, with this command line.
"""

from absl import flags
from ml_collections import config_flags


def define_flags(values: flags.FlagValues) -> None:
    config_flags.DEFINE_config_file("config", None, "File with get_config().", flag_values=values)
    flags.DEFINE_string("workdir", None, "Folder of the run: made, or gone on with.", flag_values=values)
    flags.DEFINE_string("data_dir", "data", "Folder of the data sets.", flag_values=values)
    flags.DEFINE_bool(
        "dry_run", False, "Print the config, the parameters and the predicted memory, and stop.", flag_values=values
    )
    flags.DEFINE_bool("allow_changed", False, "Go on in a folder that has another config.", flag_values=values)
    flags.DEFINE_string(
        "profile",
        None,
        "Steps to profile into WORKDIR/profile: 10:15, or 5 for the five after ten.",
        flag_values=values,
    )
    flags.mark_flag_as_required("config", flag_values=values)


def run(args: flags.FlagValues) -> None:
    from diffusion_jax import dry_run
    from diffusion_jax import run as runs
    from diffusion_jax.training import processes

    if args.dry_run:
        dry_run.report(args.config)
    elif not args.workdir:
        raise flags.Error("--workdir is required: the folder for the run")
    else:
        processes.join(args.workdir)
        processes.say_nothing()
        runs.train(args.config, args.workdir, args.data_dir, args.allow_changed, args.profile)
