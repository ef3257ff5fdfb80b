"""Build a data set, convert one, look at one, or embed its captions.

Examples:

  diffusion-jax data build emoji
  diffusion-jax data build emoji --recipe=openmoji        (one style, without npm)
  diffusion-jax data show emoji --out=sheet.png
  diffusion-jax data show shapes --split=validation
  diffusion-jax data show my_pictures/                    (a folder of pictures with captions)
  diffusion-jax data convert shards/00000.tar shards/00001.tar --out=data/mine
  diffusion-jax data embed --config=experiments/mine.py   (once, before a training with a pretrained text encoder)
  diffusion-jax data embed --config=experiments/mine.py --shard_index=3 --shard_count=8    (one of eight machines)
"""

from absl import flags
from ml_collections import config_flags


def define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string("data_dir", "data", "Folder of the data sets.", flag_values=values)
    flags.DEFINE_string("recipe", None, "build emoji: six_styles or openmoji.", flag_values=values)
    flags.DEFINE_string("split", "train", "train or validation.", flag_values=values)
    flags.DEFINE_integer("count", 48, "Pictures on the sheet.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("seed", 0, "Which pictures.", 0, 2**32 - 1, flag_values=values)
    out = "show: the PNG (default NAME.png); convert: the new folder; embed: its folder (default DATA_DIR/embeddings)."
    flags.DEFINE_string("out", None, out, flag_values=values)
    flags.DEFINE_float("held_out", 0.05, "convert: the share of the validation split.", flag_values=values)
    config_flags.DEFINE_config_file("config", None, "embed: file with get_config().", flag_values=values)
    flags.DEFINE_integer("batch_size", 32, "embed: captions at once.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("shard_index", 0, "embed: which share, from 0.", lower_bound=0, flag_values=values)
    flags.DEFINE_integer("shard_count", 1, "embed: machines that share the work.", lower_bound=1, flag_values=values)


def run(args: flags.FlagValues, action: str, *names: str) -> None:
    from diffusion_jax import datasets

    if action == "build" and len(names) == 1:
        datasets.build(names[0], args.data_dir, args.recipe)
    elif action == "show" and len(names) == 1:
        datasets.show(names[0], args.data_dir, args.split, args.count, args.seed, args.out)
    elif action == "convert" and names and args.out:
        datasets.convert(names, args.out, args.held_out)
    elif action == "embed" and not names and args.config:
        from diffusion_jax import embed

        embed.embed(args.config, args.data_dir, args.out, args.batch_size, args.shard_index, args.shard_count)
    else:
        raise flags.Error(
            "say `data build NAME`, `data show NAME`, `data convert TAR ... --out=FOLDER` or `data embed --config=FILE`"
        )
