"""What the fakes share: they write down how they were called, and refuse flags that the real program has not."""

import contextlib
import json
import os
import sys
from pathlib import Path

STATE = Path(os.environ["FAKES"])


def called(program, flags=(), switches=()):
    """Writes the call down and returns (flags as a dict, words)."""
    argv = sys.argv[1:]
    with open(STATE / f"{program}.jsonl", "a") as log:
        log.write(json.dumps(argv) + "\n")
    given, words = {}, []
    for place, word in enumerate(argv):
        if not word.startswith("--") and program in ("sbatch", "srun"):
            return given, argv[place:]  # the rest is somebody else's
        if not word.startswith("--"):
            words.append(word)
            continue
        name, equals, value = word[2:].partition("=")
        if name not in (flags if equals else switches):
            sys.exit(f"{program}: error: unrecognized argument {word}")
        given[name] = value if equals else True
    return given, words


def session_of(leader):
    """The numbers of all processes in the session of this one: what a cluster calls a step."""
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(ProcessLookupError):
            if entry.name.isdigit() and os.getsid(int(entry.name)) == leader:
                yield int(entry.name)


def signal_session(leader, signal):
    """Sends a signal to each process of a session, as far as it is still there."""
    for pid in list(session_of(leader)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal)
