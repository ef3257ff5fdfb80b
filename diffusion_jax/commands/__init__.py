"""The verbs of `diffusion-jax`: each module here is one, and holds flags but no logic.

A verb is a module `diffusion_jax/commands/VERB.py` with three things:

    '''What it does, in one line (the listing shows it).

    Examples, as they are typed (`diffusion-jax VERB --help` shows this docstring, then the flags):

      diffusion-jax VERB --workdir=runs/a
    '''

    from absl import flags

    def define_flags(values: flags.FlagValues) -> None:
        flags.DEFINE_string("workdir", None, "Folder of the run.", flag_values=values)
        flags.mark_flag_as_required("workdir", flag_values=values)
        config_flags.DEFINE_config_file("config", None, "File with get_config().", flag_values=values)

    def run(args: flags.FlagValues, action: str, name: str = "emoji") -> int | None:
        from diffusion_jax.training import loop     # heavy rooms are imported here, so --help is fast
        loop.train(workdir=args.workdir)            # None or 0 is success; another number is the exit code

Every flag goes to `values` (pass `flag_values=values` each time): a fresh set for each call, so a test may call
`diffusion_jax.__main__.main(["VERB", ...])` as often as it likes. Words that are not flags (`data build emoji`) become
the positional arguments of `run` after `args`; a wrong number of them is a usage error. Flags may stand before or after
the words. `args.config` is the locked ConfigDict with the overrides of the command line applied; a missing config file,
an unknown key or a wrong type never reaches `run`.

`main` returns the exit code. It prints `error: MESSAGE` without a traceback, and returns 1, for any OSError, for a
ValueError that this package or a module of experiments/ raised itself, and for the exception types that this package
defines: raise these with one clear line (what, where, what to do). It returns 2 for wrong flags. Any other exception is
a bug and keeps its traceback, as does a ValueError out of the depths of JAX or NumPy. DIFFUSION_JAX_TRACEBACK=1 in the
environment shows every traceback.
"""
