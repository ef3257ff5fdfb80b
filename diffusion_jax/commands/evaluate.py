"""Measure a trained model: loss on held-out pictures with right and wrong captions; on shapes, alignment with the text.

Examples:

  diffusion-jax evaluate --workdir=runs/a
  diffusion-jax evaluate --pretrained=emoji
  diffusion-jax evaluate --workdir=runs/a --ema=0.05,0.1,0.15     # averages made of the snapshots of config.ema_lengths
"""

from absl import flags


def define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string("workdir", None, "Folder of a run.", flag_values=values)
    flags.DEFINE_string("pretrained", None, "Name of weights that the package ships.", flag_values=values)
    flags.DEFINE_string("data_dir", "data", "Folder of the data sets.", flag_values=values)
    flags.DEFINE_integer("count", 256, "Held-out pictures to judge by.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("seed", 0, "Seed of the pictures drawn.", 0, 2**32 - 1, flag_values=values)
    flags.DEFINE_list("ema", [], "Lengths of averages to judge as well, in shares of the training.", flag_values=values)


def run(args: flags.FlagValues) -> None:
    from diffusion_jax import judge

    try:
        lengths = [float(length) for length in args.ema]
    except ValueError:
        raise flags.Error(f"--ema={','.join(args.ema)}: write numbers, such as 0.05,0.1") from None
    judge.judge(args.data_dir, args.workdir, args.pretrained, args.count, args.seed, lengths)
