"""Measure a trained model: loss on held-out pictures with right and wrong captions; on shapes, alignment with the text.

Examples:

  diffusion-jax evaluate --workdir=runs/a
  diffusion-jax evaluate --pretrained=emoji
"""

from absl import flags


def define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string("workdir", None, "Folder of a run.", flag_values=values)
    flags.DEFINE_string("pretrained", None, "Name of weights that the package ships.", flag_values=values)
    flags.DEFINE_string("data_dir", "data", "Folder of the data sets.", flag_values=values)
    flags.DEFINE_integer("count", 256, "Held-out pictures to judge by.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("seed", 0, "Seed of the pictures drawn.", 0, 2**32 - 1, flag_values=values)


def run(args: flags.FlagValues) -> None:
    from diffusion_jax import judge

    judge.judge(args.data_dir, args.workdir, args.pretrained, args.count, args.seed)
