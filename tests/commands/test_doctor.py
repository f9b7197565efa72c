"""`jepa doctor`: what it finds, and what it says when something is missing."""

import json
from importlib import metadata
from pathlib import Path

import pytest

from jepa.cli import main
from jepa.commands import doctor


def test_it_says_what_is_installed_and_ends_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--speed=false"]) == 0
    text = capsys.readouterr().out
    for name in ("torch", "lightning", "timm", "av", "webdataset"):
        assert metadata.version(name) in next(line for line in text.splitlines() if line.split()[:1] == [name])
    for words in ("CPU, ", "/dev/shm", "decoder", "pyav", f"free in {Path.cwd()}", "ready"):
        assert words in text


def test_json_holds_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--speed=false", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is True
    assert found["errors"] == found["speeds"] == []
    versions = {package["name"]: package["installed"] for package in found["packages"]}
    assert versions["torch"] == metadata.version("torch")
    assert found["decoders"]["pyav"] == metadata.version("av")


def test_speed_is_measured_and_called_a_guess() -> None:
    (speed,) = [one for one in doctor.examine(measure=True).speeds if one.device == "cpu"]
    assert 0.1 < speed.clips_per_second < 1e5
    found = doctor.Findings({}, [], [], {}, None, 10**12, speeds=[speed])
    assert "clips/s on cpu (a guess: size nano" in doctor.as_text(found)


def test_a_missing_or_old_requirement_is_an_error_with_its_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    versions = {"timm": None, "torch": "2.0.1"}
    known = doctor._installed
    monkeypatch.setattr(doctor, "_installed", lambda name: versions.get(name, known(name)))
    assert main(["doctor"]) == 1
    text = capsys.readouterr().out
    assert "MISSING: timm (not installed): run `pip install 'timm>=" in text
    assert "MISSING: torch (2.0.1 does not fit >=" in text
    assert "something required is missing" in text


def test_a_missing_extra_is_advice_that_names_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = doctor._installed
    monkeypatch.setattr(doctor, "_installed", lambda name: None if name == "hypothesis" else known(name))
    assert main(["doctor", "--speed=false"]) == 0
    assert "`pip install 'jepa-video[test]'`" in capsys.readouterr().out


def test_a_distribution_that_is_not_installed_has_no_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(doctor.packages("no-such-distribution-of-ours")) == []
    monkeypatch.setattr(doctor, "DISTRIBUTION", "no-such-distribution-of-ours")
    monkeypatch.setattr(doctor, "packages", lambda: iter(()))
    assert any("is not installed" in line for line in doctor.examine(measure=False).errors)


def test_a_part_that_breaks_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> list[str]:
        raise OSError("no driver\nfound")

    monkeypatch.setattr(doctor, "_devices", broken)
    assert "devices: OSError: no driver found" in doctor.examine(measure=False).errors


def test_little_shared_memory_and_disk_are_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_free", lambda folder: 64_000_000)
    advice = " ".join(doctor.examine(measure=False).advice)
    assert "/dev/shm has 0.1 GB free" in advice
    assert "the current folder has 0.1 GB free" in advice
