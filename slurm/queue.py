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


def submit(script: Path, options: Sequence[str]) -> str:
    """Give a script to sbatch; the number of the job.

    Args:
        script: the file.
        options: of sbatch.

    Raises:
        ConfigError: there is no sbatch here, or it refuses the job.
    """
    if shutil.which("sbatch") is None:
        raise ConfigError(
            "there is no sbatch on this machine: submit from a login node of the cluster; --dry-run shows the script"
        )
    try:
        done = _run(["sbatch", "--parsable", *options, str(script)], _outside(os.environ))
    except subprocess.TimeoutExpired as error:
        raise ConfigError(
            f"sbatch gave no answer for {_SECONDS} seconds: look whether the job exists (squeue --me)"
        ) from error
    found = re.match(r"(\d+)", done.stdout.strip())
    if done.returncode or found is None:
        raise ConfigError(f"sbatch refuses the job: {reason_of(done.stderr) or f'it ended with {done.returncode}'}")
    return found[1]


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
