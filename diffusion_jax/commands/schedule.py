"""Draw what configs train their networks to do, and where they sample; warn of mistakes.

Examples:

  diffusion-jax schedule cosine linear_beta rectified_flow
  diffusion-jax schedule experiments/demo.py experiments/adm64.py --out=objectives.png
"""

from absl import flags


def define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string("out", "schedule.png", "The PNG.", flag_values=values)


def run(args: flags.FlagValues, *names: str) -> None:
    from diffusion_jax import objectives

    if not names:
        raise flags.Error("say which: `schedule cosine edm`, or files of configs")
    objectives.show(names, args.out)
