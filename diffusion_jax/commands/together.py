"""Train runs that differ in numbers only in one program, or go on with them; each is an ordinary run.

Examples:

  diffusion-jax together runs/sweeps/shift/shift_1-0123456789ab/seed_0 runs/sweeps/shift/shift_2-ba9876543210/seed_0

Each folder holds config.py, as `diffusion-jax sweep` writes it, whose --together gives this command its folders. The
runs lie beside one another on the devices. One that diverges stops no other. SIGTERM and Ctrl-C save first, and leave
with exit code 143 or 130. Exit code 1: some failed, the others are done.
"""

from absl import flags


def define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string("data_dir", "data", "Folder of the data sets.", flag_values=values)


def run(args: flags.FlagValues, *folders: str) -> int:
    from diffusion_jax import many
    from diffusion_jax.training import processes

    if not folders:
        raise flags.Error("no run folders: give those of the runs to train")
    processes.say_nothing()
    failed = many.train([many.config_of(folder) for folder in folders], folders, args.data_dir)
    for folder, why in failed.items():
        print(f"{folder}: {why}", flush=True)
    return int(bool(failed))
