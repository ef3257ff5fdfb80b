"""Time a training step or the drawing of pictures: compile time, images/s, achieved FLOP/s, memory; as JSON.

Examples:

  diffusion-jax bench train --config=experiments/emoji32.py
  diffusion-jax bench sample --config=experiments/emoji32.py --repeats=20 --out=sample.json
"""

from absl import flags
from ml_collections import config_flags


def define_flags(values: flags.FlagValues) -> None:
    config_flags.DEFINE_config_file("config", None, "File with get_config().", flag_values=values)
    flags.DEFINE_integer("repeats", 20, "Timed repetitions.", lower_bound=2, flag_values=values)
    flags.DEFINE_string("out", None, "File for the JSON, besides printing it.", flag_values=values)
    flags.mark_flag_as_required("config", flag_values=values)


def run(args: flags.FlagValues, what: str) -> None:
    from diffusion_jax import bench

    if what not in bench.PROGRAMS:
        raise flags.Error(f"say `bench {'` or `bench '.join(bench.PROGRAMS)}`, not {what!r}")
    bench.report(what, args.config, args.repeats, args.out)
