"""Make a page of what a sweep has found: report.html, which needs nothing else, and the same as Markdown and CSV.

Examples:

  diffusion-jax report runs/sweeps/prediction
  diffusion-jax report experiments/ablations/prediction.py --workdir=runs/sweeps

Everything goes to report/ in the folder of the sweep. A sweep that is not done is reported as far as it is.
"""

from absl import flags


def define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string("workdir", "runs/sweeps", "Folder of the sweeps, where a file is given.", flag_values=values)


def run(args: flags.FlagValues, sweep: str) -> None:
    from diffusion_jax.report import report

    report(sweep, args.workdir)
