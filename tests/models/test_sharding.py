"""A model divided between two processes computes what a whole one does; the checks are in `sharded.py`."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("sharded.py")
ROOT = Path(__file__).parents[2]
CHECKS = re.findall(r"^def check_(\w+)", SCRIPT.read_text("utf-8"), re.M)


@pytest.fixture(scope="module")
def results(once: Callable[[str, Callable[[Path], None]], Path]) -> dict[str, list[str]]:
    """What became of each check in both processes: an empty text, or a traceback."""

    def make(folder: Path) -> None:
        folder.mkdir()
        environment = os.environ | {"WORLD_SIZE": "2", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-W", "error", str(SCRIPT), str(folder)]
        processes = [
            subprocess.Popen(command, env=environment | {"RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
            for rank in range(2)
        ]
        for process in processes:
            (folder / f"errors-{process.pid}").write_text(process.communicate()[1])

    folder = once("sharded", make)
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("results-*.json"))]
    assert len(found) == 2, "\n".join(path.read_text() for path in folder.glob("errors-*"))
    return {name: [result[name] for result in found] for name in CHECKS}


@pytest.mark.parametrize("check", CHECKS)
def test_a_divided_model(check: str, results: dict[str, list[str]]) -> None:
    assert results[check] == ["", ""], "\n".join(results[check])
