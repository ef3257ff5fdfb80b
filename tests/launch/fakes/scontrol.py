"""scontrol: tells the state of the job, and puts it back in the queue by ending what runs of it."""

import signal

from _fake import STATE, called, signal_session

_, words = called("scontrol", [], ["oneliner"])
if words[0] == "requeue":
    (STATE / "requeue").touch()
    signal_session(int((STATE / "batch.pid").read_text()), signal.SIGTERM)
else:
    assert words[:2] == ["show", "job"]
    print(f"JobId={words[2]} JobName=trial UserId=me(0) JobState=RUNNING Reason=None Requeue=1 Restarts=0")
