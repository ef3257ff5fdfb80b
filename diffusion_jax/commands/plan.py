"""Predict what a training needs on many devices: parameters, FLOP, memory, time, money; nothing is run.

Examples:

  diffusion-jax plan --config=experiments/imagen64.py --devices=256 --kind=v5p --config.parallel.mesh.fsdp=16
  diffusion-jax plan --config=experiments/unet8b.py --devices=256 --kind=h100 --utilization=0.3 --price=2.5
  diffusion-jax plan --config=experiments/emoji64.py --devices=1 --kind=a100 --images=10_000_000 --out=plan.json

Memory of the state is exact. Activations are predicted, and utilization and price are assumptions that are printed.
"""

from absl import flags
from ml_collections import config_flags


def define_flags(values: flags.FlagValues) -> None:
    config_flags.DEFINE_config_file("config", None, "File with get_config().", flag_values=values)
    flags.DEFINE_integer("devices", None, "How many TPU chips or GPUs.", flag_values=values)
    flags.DEFINE_string("kind", None, "Of which kind: v4, v5e, v5p, v6e, a100, h100, h200, ...", flag_values=values)
    flags.DEFINE_float("utilization", 0.35, "Share of the devices' peak that is reached.", flag_values=values)
    flags.DEFINE_integer("images", None, "Images to train on; without it, the config's steps.", flag_values=values)
    flags.DEFINE_float("price", None, "Dollars for an hour of a device; without it, a guess.", flag_values=values)
    flags.DEFINE_string("out", None, "File for the figures as JSON, besides printing them.", flag_values=values)
    for name in ("config", "devices", "kind"):
        flags.mark_flag_as_required(name, flag_values=values)


def run(args: flags.FlagValues) -> None:
    from diffusion_jax import plan

    plan.report(args.config, args.devices, args.kind, args.utilization, args.images, args.price, args.out)
