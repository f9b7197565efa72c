"""`jepa extract` as a user calls it."""

import json
from pathlib import Path

import pytest

from jepa.cli import main
from jepa.features.readers import FeatureSet


def test_a_run_is_extracted_once(
    tiny_run: Path, tiny_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["extract", "--encoder", str(tiny_run), "--data", str(tiny_shards), "--out", str(tmp_path / "f"),
               "--split", "test", "--pool", "steps", "--workers", "0"]  # fmt: skip
    assert main([*command, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["rows"], facts["new_rows"], facts["row_shape"]) == (12, 12, [4, 96])
    assert len(FeatureSet(tmp_path / "f")) == 12
    assert main(command) == 0
    assert "already complete" in capsys.readouterr().out
    assert main([*command, "--pool", "mean"]) == 2
    assert "begun with pool steps" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changed", "value", "code", "message"),
    [
        ("--encoder", "nowhere", 3, "no encoder at nowhere"),
        ("--data", "nowhere", 3, "nowhere"),
        ("--split", "val", 2, "val"),
    ],
)
def test_mistakes_are_one_line(
    tiny_run: Path, tiny_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    changed: str, value: str, code: int, message: str,
) -> None:  # fmt: skip
    options = {"--encoder": str(tiny_run), "--data": str(tiny_shards), "--out": str(tmp_path / "f"), "--split": "test"}
    options[changed] = value
    assert main(["extract", *(word for pair in options.items() for word in pair)]) == code
    error = capsys.readouterr().err.strip()
    assert message in error.splitlines()[-1]
    assert "Traceback" not in error
