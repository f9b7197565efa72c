"""Checks in processes of their own: several that work together, or one in which no shapes are checked."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Checked = Callable[..., dict[str, list[str]]]

WARNINGS = ("-W", "error", "-W", "ignore:The .grad attribute")
"""The second is one that the compiler calls forth while it looks at tensors, and hides."""


@pytest.fixture(scope="session")
def checked(once: Callable[[str, Callable[[Path], None]], Path]) -> Checked:
    """`checked(script, "check_", processes=2)`: what became of each function of the script with such a name in each of
    so many processes, an empty text or a traceback; run once."""

    def results(script: Path, prefix: str, processes: int = 1) -> dict[str, list[str]]:
        folder = once(f"{script.stem}-{prefix}", lambda folder: start(script, prefix, processes, folder))
        found = [folder / f"results-{rank}.json" for rank in range(processes)]
        assert all(path.exists() for path in found), (folder / "errors").read_text()
        told = [json.loads(path.read_text()) for path in found]
        return {name: [result[name] for result in told] for name in told[0]}

    return results


def start(script: Path, prefix: str, processes: int, folder: Path) -> None:
    """Run the script in so many processes, which leave their results in the folder, and what they said in `errors`."""
    folder.mkdir()
    environment = os.environ | {"WORLD_SIZE": str(processes), "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, *WARNINGS, str(script), str(folder), prefix]
    with (folder / "errors").open("w") as errors:
        running = [
            subprocess.Popen(command, env=environment | {"RANK": str(rank)}, stderr=errors) for rank in range(processes)
        ]
        for process in running:
            process.wait(timeout=300)
