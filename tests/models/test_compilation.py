"""Compiled blocks compute what they did before, and nothing is compiled twice; the checks are in `compiled.py`."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("compiled.py")
CHECKS = re.findall(r"^def (check_\w+)", SCRIPT.read_text("utf-8"), re.M)


@pytest.mark.parametrize("check", CHECKS)
def test_compiled_blocks(check: str, checked: Callable[..., dict[str, list[str]]]) -> None:
    assert checked(SCRIPT, "check_")[check] == [""]


@pytest.mark.slow
def test_compiled_kernels(checked: Callable[..., dict[str, list[str]]]) -> None:
    assert checked(SCRIPT, "kernels_") == {"kernels_compute_the_same": [""]}
