"""The Slurm job around a run: when it ends, and how it comes back into the queue.

Lightning's own requeueing saves inside the signal handler, each rank for itself; it is not used. Here the run stops at
a step boundary with its state saved, and then rank 0 asks for the job to be queued again. The job runs the same command
with `--resume`, and so goes on where it stopped.
"""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping

from jepa.logs import get_logger

log = get_logger(__name__)

_ENDED = ("CANCELLED", "COMPLETING", "REVOKED", "SPECIAL_EXIT")


def job_number(environ: Mapping[str, str] = os.environ) -> str | None:
    """Number of the Slurm job that this process belongs to, of its own also in an array; none outside one."""
    return environ.get("SLURM_JOB_ID")


def seconds_left(environ: Mapping[str, str] = os.environ) -> float | None:
    """Seconds until the time limit of the job; none if it has none, or outside a job."""
    if (number := job_number(environ)) is None:
        return None
    end = environ.get("SLURM_JOB_END_TIME")
    if end is not None and end.isdecimal():
        return float(end) - time.time()
    found = re.search(r"\bEndTime=(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)", _control("show", "job", number, "--oneliner"))
    return None if found is None else time.mktime(time.strptime(found[1], "%Y-%m-%dT%H:%M:%S")) - time.time()


def requeue(environ: Mapping[str, str] = os.environ) -> bool:
    """Put the job back into the queue; whether that was done, here or by Slurm itself.

    Not if it was cancelled: whoever did that does not want it back. The processes of the job are ended by this.
    """
    number = job_number(environ)
    if number is None or shutil.which("scontrol") is None:
        return False
    before = _control("show", "job", number, "--oneliner")
    state, reason = (re.search(rf"\b{name}=(\w+)", before) for name in ("JobState", "Reason"))
    if state is not None and state[1] == "PREEMPTED" and "Requeue=1" in before:
        return True  # by Slurm
    # A job that is being ended is COMPLETING, by whatever: scancel tells no reason. `scontrol requeue` would bring it
    # back; with `incomplete` it does not, should that happen between these two questions.
    late = state is not None and reason is not None and reason[1] == "TimeLimit"
    if state is not None and state[1] in _ENDED and not late:
        log.warning("job %s is %s, so somebody has ended it: not put back into the queue", number, state[1].lower())
        return False
    command = ["scontrol", "requeue", number] if late else ["scontrol", "requeue", "incomplete", number]
    try:
        subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        log.warning("job %s could not be put back into the queue (%s): submit it again", number, said.strip())
        return False
    log.info("job %s is back in the queue", number)
    return True


def _control(*words: str) -> str:
    """What scontrol says; nothing if it fails."""
    try:
        done = subprocess.run(["scontrol", *words], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout
