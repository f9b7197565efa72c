"""Who trains in a run folder, and whether that process is still there.

`status.json` and `run.lock` name the host and the process; of a process on this host the operating system knows
whether it lives, of a job on another one Slurm does. Where neither can be asked, all that is left is how long ago the
run gave its last sign.
"""

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jepa.report.traces import line
from jepa.training.lines import read_bytes

LOCK_FILE = "run.lock"
"""In a run folder, while a process trains in it; says "process PID on HOST"."""

_LARGEST = 2**31
"""Numbers of processes are below."""


@dataclass(frozen=True)
class Holder:
    """The process that trains, or was the last one to; rank 0 of several."""

    host: str | None
    pid: int | None
    job: str | None
    """Number of its Slurm job."""
    job_state: str | None
    """What Slurm says of the job: RUNNING, PENDING, ...; "gone" if it knows no such job (any more); none if it cannot
    be asked or there is no job."""
    alive: bool | None
    """Whether the process is there; none if that cannot be told from here."""
    locks: bool
    """Whether the folder is locked in its name; a lock outlives a process that is killed."""

    @property
    def text(self) -> str:
        """Like "process 123 on node7, job 4711 (RUNNING)"."""
        job = "" if self.job is None else f", job {self.job}{f' ({self.job_state})' if self.job_state else ''}"
        return f"process {self.pid} on {self.host}{job}"


def find_holder(folder: Path, status: Mapping[str, Any] | None) -> Holder | None:
    """Who trains in the folder, by its lock, which is the first thing a process writes, or its status; none if neither
    says so."""
    host, pid = line((status or {}).get("host")), (status or {}).get("pid")
    locked = _lock_owner(folder / LOCK_FILE)
    if locked is not None:
        pid, host = locked
    if type(pid) is not int or not 0 < pid < _LARGEST or host is None:
        return None
    job = line((status or {}).get("job"))
    state = None if job is None else job_state(job)
    alive = is_alive(pid) if host == socket.gethostname() else None
    if alive is None and state is not None:
        alive = state in ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED")
    return Holder(host, pid, job, state, alive, locked is not None)


def is_alive(pid: int) -> bool:
    """Whether a process on this host lives, and is one that could train: numbers of processes are used again."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it is there, and somebody else's
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return True  # no Linux, or not ours to see
    return b"python" in command or b"jepa" in command  # empty, for one that has ended and was not waited for


def job_state(job: str) -> str | None:
    """What Slurm says of a job; see `Holder.job_state`."""
    if shutil.which("squeue") is None or not re.fullmatch(r"\d+([_+]\d+)?", job, re.ASCII):
        return None
    command = ["squeue", "--noheader", "--jobs", job, "--format", "%T"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=15, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    if done.returncode:
        return "gone" if "Invalid job id" in done.stderr else None
    return done.stdout.split()[0] if done.stdout.split() else "gone"


def _lock_owner(lock: Path) -> tuple[int, str] | None:
    try:
        found = re.match(r"process (\d{1,10}) on (\S+)", read_bytes(lock).decode("utf-8", "replace"), re.ASCII)
    except OSError:
        return None
    host = line(found[2]) if found else None
    return (int(found[1]), host) if found and host else None
