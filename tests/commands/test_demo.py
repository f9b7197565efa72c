"""The demo on a few clips and steps: everything is left where the issue of scripts expects it, and it continues."""

import json
from pathlib import Path

import pytest

from jepa.checkpoints.load import load_encoder
from jepa.cli import main
from jepa.commands.demo import PRESETS, TASKS
from jepa.config import load_named
from jepa.eval.results import read_results
from jepa.models.build import predictor_config
from jepa.training.config import PretrainConfig

SMALL = ["--clips", "96", "--max-steps", "2"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "run"
    assert main(["demo", "--out", str(out), *SMALL]) == 0
    return out


def test_the_run_folder_is_complete(demo: Path) -> None:
    for name in ("config.yaml", "environment.json", "metrics.csv", "model.safetensors", "config.json", "report.html"):
        assert (demo / name).is_file(), name
    assert (demo / "checkpoints").is_dir()
    assert (demo / "stages" / "reconstruction" / "model.safetensors").is_file()


def test_results_hold_every_encoder_probe_and_task_once(demo: Path) -> None:
    found = [(result.task, result.encoder, result.probe) for result in read_results(demo)]
    assert len(found) == len(set(found))
    encoders = ("pretrained", "reconstruction", "random")
    wanted = {(task, name, probe) for task in TASKS for name in encoders for probe in ("linear", "attentive", "knn")}
    wanted |= {(task, "pixels", probe) for task in TASKS for probe in ("linear", "knn")}
    assert wanted <= set(found)


def test_the_second_stage_starts_from_the_first(demo: Path) -> None:
    config = json.loads((demo / "config.json").read_text())
    assert config["objective"]["target"] == "ema"
    assert "stages/reconstruction" in (demo / "config.yaml").read_text()


def test_each_result_names_the_weights_it_was_measured_on(demo: Path) -> None:
    hashes = {result.encoder: result.checkpoint_hash for result in read_results(demo)}
    assert hashes["pretrained"] == load_encoder(demo).checkpoint_hash
    assert hashes["reconstruction"] == load_encoder(demo / "stages" / "reconstruction").checkpoint_hash
    assert len({hashes[name] for name in ("pretrained", "reconstruction", "random")}) == 3


@pytest.mark.parametrize("name", ["demo", "full"])
def test_the_recipe_that_was_measured_is_the_one_that_is_shipped(name: str) -> None:
    # A deeper predictor follows the motion itself, and predicting fewer tokens learns more slowly (docs/log.md).
    config = load_named(PretrainConfig, "pretrain", name, {"data": Path("d"), "out": Path("o")}, "test")
    assert predictor_config(config.model).depth == 1
    assert config.masks.context_share == 0.4
    assert config.masks.target_share == 0.6


def test_the_same_command_again_finds_the_work_done(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights, before = (demo / "model.safetensors").read_bytes(), (demo / "results.jsonl").read_text()
    assert main(["demo", "--out", str(demo), *SMALL, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["page"].endswith("report.html")
    assert (demo / "model.safetensors").read_bytes() == weights
    assert (demo / "results.jsonl").read_text() == before, "the same weights, data and seed gave other results"


def test_a_longer_first_stage_under_a_started_second_one_is_refused_at_once(
    demo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = demo / "stages" / "reconstruction" / "model.safetensors"
    before = first.read_bytes()
    assert main(["demo", "--out", str(demo), "--clips", "96", "--max-steps", "3"]) == 2
    message = capsys.readouterr().err
    assert f"cannot go on in {demo}: its first stage ended after 2 steps" in message
    assert "choose another --out" in message
    assert first.read_bytes() == before


@pytest.mark.parametrize("preset", PRESETS)
def test_every_stage_has_its_configuration_and_its_predecessor(preset: str) -> None:
    folders = set()
    for stage in PRESETS[preset].stages:
        given = {"data": Path("data"), "out": Path("out"), "init": stage.init}
        assert load_named(PretrainConfig, "pretrain", stage.config, given, "test").out == Path("out")
        assert stage.init is None or stage.init in folders
        folders.add(stage.folder)
    assert PRESETS[preset].stages[-1].encoder == "pretrained"
