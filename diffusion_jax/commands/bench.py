"""Time a training step or drawing: images/s, achieved FLOP/s, memory; or count what devices would tell each other.

Examples:

  diffusion-jax bench train --config=experiments/emoji32.py
  diffusion-jax bench sample --config=experiments/emoji32.py --repeats=20 --out=sample.json
  diffusion-jax bench scale --config=experiments/tiny.py --devices=8 --layouts=data,fsdp

`bench scale` runs nothing and needs no second device: it compiles the training step for 1, 2, 4, ... simulated devices
in each layout, and counts the bytes of each collective in the program.
"""

from absl import flags
from ml_collections import config_flags


def define_flags(values: flags.FlagValues) -> None:
    config_flags.DEFINE_config_file("config", None, "File with get_config().", flag_values=values)
    flags.DEFINE_integer("repeats", 20, "Timed repetitions.", lower_bound=2, flag_values=values)
    flags.DEFINE_integer("devices", 8, "bench scale: the most devices, a power of two.", flag_values=values)
    layouts = "data,fsdp,data x fsdp,tensor,pmap,microbatched"
    flags.DEFINE_list("layouts", layouts.split(","), "bench scale: how a training is spread.", flag_values=values)
    flags.DEFINE_string("out", None, "File for the JSON, besides printing it.", flag_values=values)
    flags.mark_flag_as_required("config", flag_values=values)


def run(args: flags.FlagValues, what: str) -> None:
    from diffusion_jax import bench, scaling

    if what == "scale":
        scaling.report(args.config, args.devices, args.layouts, args.out)
    elif what in bench.PROGRAMS:
        bench.report(what, args.config, args.repeats, args.out)
    else:
        raise flags.Error(f"say `bench {'` or `bench '.join([*bench.PROGRAMS, 'scale'])}`, not {what!r}")
