"""The commands of Slurm that `jepa submit` needs, and what they say in one line."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from jepa.errors import ConfigError

_SECONDS = 300
"""How long a command may take; the controller of a large cluster can be slow to answer."""
_KEPT = frozenset({"SLURM_CONF", "SLURM_CLUSTERS"})
NEVER = frozenset(
    {
        "BadConstraints", "InvalidAccount", "InvalidQOS", "PartitionConfig", "PartitionNodeLimit", "PartitionTimeLimit",
        "AccountNotAllowed", "QOSNotAllowed",
    }
)  # fmt: skip
"""Reasons of a pending job that waiting does not mend."""


_LOST = re.compile("timed out|connection reset|zero bytes|unexpected message", re.IGNORECASE)
"""What sbatch says when the controller may have taken the job and the answer did not come through."""


class NoAnswer(ConfigError):
    """sbatch did not tell whether the job exists, so its files have to stay."""


def submit(script: Path, options: Sequence[str]) -> str:
    """Give a script to sbatch; the number of the job.

    Args:
        script: the file.
        options: of sbatch.

    Raises:
        ConfigError: there is no sbatch here, or it refuses the job.
        NoAnswer: nobody knows; the job may be in the queue.
    """
    if shutil.which("sbatch") is None:
        raise ConfigError(
            "there is no sbatch on this machine: submit from a login node of the cluster; --dry-run shows the script"
        )
    try:
        done = _run(["sbatch", "--parsable", *options, str(script)], _outside(os.environ))
    except subprocess.TimeoutExpired as error:
        raise _no_answer(f"sbatch gave no answer for {_SECONDS} seconds", script) from error
    except OSError as error:
        raise ConfigError(f"sbatch cannot be started: {error.strerror}") from error
    reason = reason_of(done.stderr)
    if done.returncode < 0 or (done.returncode and _LOST.search(reason)):
        raise _no_answer(f"sbatch did not end well ({reason or f'signal {-done.returncode}'})", script)
    if done.returncode:
        raise ConfigError(f"sbatch refuses the job: {reason or f'it ended with {done.returncode}'}")
    found = re.match(r"(\d+)", done.stdout.strip())
    if found is None:
        raise _no_answer("sbatch took the job and did not print its number", script)
    return found[1]


def _no_answer(what: str, script: Path) -> NoAnswer:
    return NoAnswer(
        f"{what}: look whether the job exists (squeue --me); if not, submit again and remove {script.parent}"
    )


def state(number: str) -> tuple[str, str]:
    """State of a job and why it is so, e.g. ("PENDING", "Priority"); empty texts if Slurm does not know it any more."""
    try:
        done = _run(["squeue", "--noheader", f"--jobs={number}", "--format=%T %r", "--states=all"], os.environ)
    except (OSError, subprocess.TimeoutExpired):
        return "", ""
    name, _, reason = (done.stdout.splitlines() or [""])[0].partition(" ")
    return name, reason


def reason_of(printed: str) -> str:
    """What a command of Slurm printed, in one line without its own name; each sentence once."""
    lines = (re.sub(r"^\w+: (?:error: |fatal: )?", "", line).strip(" .") for line in printed.splitlines())
    return "; ".join(dict.fromkeys(line for line in lines if line))


def _outside(environ: Mapping[str, str]) -> dict[str, str]:
    """Without the variables of the job that we may be in: the new one would inherit its tasks and its memory."""
    return {name: value for name, value in environ.items() if not name.startswith("SLURM_") or name in _KEPT}


def _run(command: Sequence[str], environ: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=_SECONDS, env=dict(environ), errors="replace"
    )
