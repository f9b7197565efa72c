"""What a run ran on: enough to repeat it, or to explain why a repetition differs."""

import os
import platform
import shlex
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from jepa.version import __version__

COMMIT = "COMMIT"
"""File beside a copy of the package (`jepa submit` makes such) that tells the commit it was copied from."""
_PACKAGES = ("torch", "lightning", "timm", "numpy", "av", "decord", "webdataset", "pyarrow", "safetensors")


def describe() -> dict[str, Any]:
    """Command line, code version, package versions, machine and threads, as plain data for JSON."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": _command(),
        "jepa": __version__,
        "git_commit": code_commit(Path(__file__).resolve().parents[1]),
        "python": platform.python_version(),
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
    }


def code_commit(package: Path) -> str | None:
    """Commit of the package in this folder, as `git_commit`, or, of a copy, what the file beside it says."""
    try:
        return (package.parent / COMMIT).read_text("utf-8").strip()
    except OSError:
        return git_commit(package)


def git_commit(folder: Path) -> str | None:
    """Commit of the checkout that holds `folder`, with `-dirty` if it has changes; none outside a checkout."""
    command = ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None


def _command() -> str:
    program = Path(sys.argv[0])
    started = ["python", "-m", program.parent.name] if program.name == "__main__.py" else [program.name]
    return shlex.join([*started, *sys.argv[1:]])


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
