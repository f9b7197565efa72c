"""What is recorded about the machine and the code."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from jepa.training.environment import describe, git_commit


def test_the_description_is_plain_data() -> None:
    described = describe()
    assert json.loads(json.dumps(described)) == described
    assert described["python"] == ".".join(map(str, sys.version_info[:3]))


def test_the_command_can_be_typed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/home/me/.venv/bin/jepa", "pretrain", "--out", "my runs/1"])
    assert describe()["command"] == "jepa pretrain --out 'my runs/1'"
    monkeypatch.setattr(sys, "argv", ["/home/me/jepa/__main__.py", "doctor"])
    assert describe()["command"] == "python -m jepa doctor"


def test_the_commit_of_a_checkout(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.run(
            ["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout.strip()

    assert git_commit(tmp_path) is None
    git("init", "--quiet")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "--quiet", "--no-gpg-sign", "--no-verify", "-m", "one")
    assert git_commit(tmp_path) == git("rev-parse", "HEAD")
    (tmp_path / "file").write_text("2")
    assert git_commit(tmp_path) == f"{git('rev-parse', 'HEAD')}-dirty"
