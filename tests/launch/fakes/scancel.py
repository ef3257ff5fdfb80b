"""scancel: sends a signal to all processes of the step."""

import json
import signal

from _fake import STATE, called, signal_session

flags, _ = called("scancel", ["signal"])
for leader in json.loads((STATE / "step.json").read_text()):
    signal_session(leader, signal.Signals[f"SIG{flags['signal']}"])
