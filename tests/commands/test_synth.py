"""`jepa synth` makes the data set, says what it made, and draws a contact sheet."""

import json
from pathlib import Path

import cv2
import pytest

from jepa.commands import synth
from jepa.data.source import open_source
from jepa.data.synthetic.world import MOTIONS
from jepa.errors import ConfigError


def test_result_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = synth.Config(out=tmp_path / "data", clips=6, test_fraction=0.5, world="hard", seed=3, json=True, workers=1)
    assert synth.run(config) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["train"], facts["test"], facts["created"], facts["world"]) == (3, 3, True, "hard")
    assert facts["classes"]["motion"] == list(MOTIONS)
    assert len(open_source(tmp_path / "data", "test")) == 3
    assert synth.run(config) == 0
    assert json.loads(capsys.readouterr().out)["created"] is False


def test_result_as_a_sentence_and_a_contact_sheet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    preview = tmp_path / "pictures" / "sheet.png"
    config = synth.Config(out=tmp_path / "data", clips=2, test_fraction=0.5, frames=8, size=32, preview=preview)
    assert synth.run(config) == 0
    out = capsys.readouterr().out
    assert "1 train and 1 test clips of the easy world" in out
    assert str(preview) in out
    picture = cv2.imread(str(preview))
    assert picture is not None
    assert picture.shape[0] == len(MOTIONS) * 33 * 3  # a row per motion: frames of 32 and a line, three times as large
    assert picture.std() > 20


def test_impossible_arguments(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="workers"):
        synth.run(synth.Config(out=tmp_path, clips=10, workers=0))
    with pytest.raises(ConfigError, match="size"):
        synth.run(synth.Config(out=tmp_path, clips=10, size=33))
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="--preview"):
        synth.run(synth.Config(out=tmp_path / "data", clips=2, test_fraction=0.5, preview=tmp_path / "file" / "a.png"))
