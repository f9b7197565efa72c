"""A model divided between two processes computes what a whole one does; the checks are in `sharded.py`."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("sharded.py")
CHECKS = re.findall(r"^def (check_\w+)", SCRIPT.read_text("utf-8"), re.M)


@pytest.mark.parametrize("check", CHECKS)
def test_a_divided_model(check: str, checked: Callable[..., dict[str, list[str]]]) -> None:
    results = checked(SCRIPT, "check_", processes=2)[check]
    assert results == ["", ""], "\n".join(results)
