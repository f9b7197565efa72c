"""Only `jepa/tokens.py` divides by patch or tubelet size; everybody else asks a TokenGrid."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "jepa"
UNIT = re.compile(r"_?(patch|tubelet)(_size)?$")


def divisions(source: str, file: str = "") -> Iterator[int]:
    """Lines that divide by something called patch or tubelet."""
    for node in ast.walk(ast.parse(source, file)):
        divisor: ast.AST | None = None
        if isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Div | ast.FloorDiv | ast.Mod):
            divisor = node.right if isinstance(node, ast.BinOp) else node.value
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "divmod":
            divisor = node.args[1]
        if divisor is None or (isinstance(node, ast.BinOp) and isinstance(node.left, ast.Constant | ast.JoinedStr)):
            continue  # `"%s" % patch` is no division of a length
        names = [
            part.attr if isinstance(part, ast.Attribute) else part.id
            for part in ast.walk(divisor)
            if isinstance(part, ast.Attribute | ast.Name)
        ]
        if any(UNIT.match(name) for name in names):
            yield node.lineno


def test_only_tokens_divides_by_patch_or_tubelet() -> None:
    found = []
    for folder in [ROOT, *(path for path in sorted(ROOT.iterdir()) if path.is_dir())]:
        for path in sorted([*folder.glob("*.py"), *folder.glob("*/**/*.py")]):
            found += [
                f"{path.relative_to(ROOT.parent)}:{line}" for line in divisions(path.read_text("utf-8"), str(path))
            ]
    elsewhere = sorted({place for place in found if not place.startswith("jepa/tokens.py:")})
    assert not elsewhere, f"use jepa.tokens.TokenGrid instead of dividing: {', '.join(elsewhere)}"
    assert len(found) > len(elsewhere), "the search no longer finds the divisions in jepa/tokens.py"


@pytest.mark.parametrize("line", ["n = height // config.patch", "t %= tubelet", "divmod(frames, self.tubelet_size)"])
def test_a_division_is_caught(line: str) -> None:
    assert list(divisions(f"x = 1\n{line}")) == [2]


@pytest.mark.parametrize("line", ["n = patch // 2", "n = rows * patch", "n = pixels / patches"])
def test_other_arithmetic_is_not(line: str) -> None:
    assert not list(divisions(line))
