"""`diffusion-jax VERB [flags]`, which is also `python -m diffusion_jax VERB [flags]`.

The verbs are the modules of `diffusion_jax/commands`, whose docstring tells what such a module holds.
"""

import ast
import difflib
import importlib
import inspect
import os
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from absl import flags

import diffusion_jax

COMMANDS = Path(__file__).parent / "commands"
OURS = ("diffusion_jax", "experiments")  # a ValueError raised here speaks to the user
CONFIG = "ml_collections"  # and so does any error about a key or a type of the config


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb and returns the exit code: 0 done, 1 an expected error, 2 wrong usage; a bug raises.

    Args:
        argv: the words after the program's name; the process's own when None.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("--help", "-h", "help"):
        print(listing())
        return 0 if argv else 2
    if argv[0] == "--version":
        print(diffusion_jax.__version__)
        return 0
    if argv[0] not in verbs():
        print(f"error: {unknown_verb(argv[0])}\n\n{listing()}", file=sys.stderr)
        return 2
    prepare_process()
    try:
        return run_verb(argv[0], argv[1:])
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output left, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except Exception as error:
        if not is_expected(error):
            if not in_a_group():
                raise
            traceback.print_exc()
            from diffusion_jax.training import processes  # here: JAX, which few commands wait for

            return without_waiting(processes.AGAIN if processes.lost(error) else 1)
        if os.environ.get("DIFFUSION_JAX_TRACEBACK"):
            traceback.print_exc()
        print(f"error: {message(error)}", file=sys.stderr)
        return without_waiting(2 if isinstance(error, flags.Error) else getattr(error, "exit_code", 1))


def in_a_group() -> bool:
    """Whether this process has joined others; see `training.processes`."""
    return "jax" in sys.modules and sys.modules["jax"].distributed.is_initialized()


def without_waiting(code: int) -> int:
    """The code; but a process of several ends here: to leave in good order is to wait minutes for the others."""
    if in_a_group():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def prepare_process() -> None:
    """Gives both ways to start the same import path, and JAX its cache, before anything imports JAX."""
    if not {"", os.getcwd()} & set(sys.path):  # `python -m` has it, a console script has not
        sys.path.insert(0, os.getcwd())
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(caches / "diffusion_jax" / "xla"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")  # small programs add up too
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a missing tokenizer fails at once instead of after minutes
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it would miss PyTorch, which nothing here needs
    flags.FLAGS.mark_as_parsed()  # grain's worker processes read absl's global flags


def run_verb(verb: str, argv: Sequence[str]) -> int:
    """Parses the flags of a verb and runs it, or prints its help."""
    command = importlib.import_module(f"diffusion_jax.commands.{verb}")
    values = flags.FlagValues()
    values.set_gnu_getopt(True)  # flags may follow words
    command.define_flags(values)
    if {"--help", "-h"} & set(argv[: argv.index("--")] if "--" in argv else argv):
        print(help_of(command, values))
        return 0
    words = parse(values, verb, argv)
    try:
        inspect.signature(command.run).bind(values, *words)
    except TypeError:
        raise flags.Error(f"wrong words {words}; `diffusion-jax {verb} --help` shows what it takes") from None
    return command.run(values, *words) or 0


def parse(values: flags.FlagValues, verb: str, argv: Sequence[str]) -> list[str]:
    """Fills the flags and returns the words among them; any mistake in them is a flags.Error of one line."""
    before, sys.argv = sys.argv, [f"diffusion-jax {verb}", *argv]  # ml_collections looks for overrides there
    try:
        words = values(sys.argv)[1:]
        for name in values:
            getattr(values[name].value, "lock", None)  # a config that could not be read raises when it is touched
    except flags.Error as error:
        required = re.match(r"flag --(\S+)=None: .* other than None", str(error))
        raise flags.Error(f"--{required[1]} is required" if required else str(error)) from error
    except OSError as error:
        path = values["config"].config_filename.split(":")[0]
        found = f"config {path} cannot be read: {error.__cause__}" if Path(path).exists() else f"no config file {path}"
        raise flags.Error(found) from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if not module_of(error).startswith(CONFIG):
            raise
        raise flags.Error(message(error)) from error
    finally:
        sys.argv = before
    return words


def is_expected(error: Exception) -> bool:
    """Whether one line says it all: the disk, the flags, the config, or an error this project raised on purpose."""
    if isinstance(error, flags.Error | OSError) or type(error).__module__.split(".")[0] in OURS:
        return True
    if isinstance(error, AttributeError | KeyError | TypeError) and module_of(error).startswith(CONFIG):
        return True
    return isinstance(error, ValueError) and module_of(error).split(".")[0] in OURS


def module_of(error: BaseException) -> str:
    """The name of the module whose line raised the error."""
    place = error.__traceback__
    while place.tb_next:
        place = place.tb_next
    return place.tb_frame.f_globals.get("__name__", "")


def message(error: Exception) -> str:
    """What the user reads: the error's own words, with the nearest key for an unknown entry of the config."""
    if not (isinstance(error, AttributeError | KeyError) and module_of(error).startswith(CONFIG)):
        return str(error) or type(error).__name__
    text = str(error.args[0] if error.args else error)
    key, nearest = re.search(r"\w[\w.]*", text), re.search(r'Did you mean "([^"]+)"', text)
    hint = f"did you mean {nearest[1]}?" if nearest else "--dry_run prints the entries there are"
    return f"the config has no entry {key[0] if key else text}: {hint}"


def verbs() -> dict[str, str]:
    """Each verb with the first line of its docstring; no command is imported for it."""
    files = sorted(path for path in COMMANDS.glob("*.py") if not path.stem.startswith("_"))
    docs = {path.stem: ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "" for path in files}
    return {name: doc.partition("\n")[0] for name, doc in docs.items()}


def listing() -> str:
    lines = [f"  {name:<9} {doc}" for name, doc in verbs().items()]
    return "\n".join(["diffusion-jax VERB [flags]", "", *lines, "", "`diffusion-jax VERB --help` shows examples."])


def unknown_verb(verb: str) -> str:
    nearest = difflib.get_close_matches(verb, verbs(), n=1)
    return f"no verb {verb}" + (f"; did you mean {nearest[0]}?" if nearest else "")


def help_of(command: ModuleType, values: flags.FlagValues) -> str:
    """The docstring of a command and its own flags, none of absl's."""
    lines = []
    for name in values:
        flag = values[name]
        default = "" if flag.default is None else f" (default: {flag.default_as_str})"
        lines.append(f"  --{name}" if flag.boolean else f"  --{name}=")
        lines.append(f"      {' '.join(flag.help.split())}{default}")
    return "\n".join([inspect.getdoc(command) or "", "", "Flags:", *lines])


if __name__ == "__main__":
    sys.exit(main())
