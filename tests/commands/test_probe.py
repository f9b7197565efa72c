"""`jepa probe` from the command line: results, baselines, and one clear line for each mistake."""

import json
from pathlib import Path

import pytest

from jepa.checkpoints.folder import save_folder
from jepa.cli import main
from jepa.data.source import open_source
from jepa.models.build import ModelConfig, build_jepa

FAST = ["--attentive.epochs", "1", "--attentive.least_steps", "2", "--loader.workers", "0", "--tasks", "bodies"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    jepa = build_jepa(ModelConfig(size="nano", patch=16), frames=4, size=32)
    return save_folder(tmp_path_factory.mktemp("model"), jepa, facts={"evaluate": "target", "clip": {"stride": 2}})


def test_probe_writes_results_and_prints_a_table(
    model: Path, tiny_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["probe", "--encoder", str(model), "--data", str(tiny_shards), "--out", str(tmp_path), *FAST]
    assert main(arguments) == 0
    table = capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    found = {(line["encoder"], line["probe"]) for line in lines}
    probes = ("linear", "attentive", "knn")
    assert found == {(name, probe) for name in ("pretrained", "random") for probe in probes} | {
        ("pixels", "linear"), ("pixels", "knn"),
    }  # fmt: skip
    for line in lines:
        assert line["encoder"] in table
        assert 0 <= line["low"] <= line["value"] <= line["high"] <= 1


def test_json_without_baselines(
    model: Path, tiny_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "probe",
        "--encoder",
        str(model / "model.safetensors"),
        "--data",
        str(tiny_shards),
        "--out",
        str(tmp_path),
    ]
    assert main([*arguments, *FAST, "--probes", "knn", "--baselines", "none", "--name", "mine", "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out)
    assert (result["encoder"], result["probe"], result["count"]) == ("mine", "knn", 12)


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        (["--tasks", "weather"], 3, "weather"),
        (["--encoder", "nowhere"], 3, "nowhere"),
        (["--data", "nowhere"], 3, "nowhere"),
        (["--baselines", "none,pixels"], 2, "none"),
        (["--device", "abacus"], 2, "abacus"),
        (["--clip.frames", "400"], 3, "frames"),
        (["--out", "{file}"], 2, "cannot write"),
        (["--attentive.heads", "0"], 2, "attentive.heads is 0"),
        (["--clip.levels", "9"], 2, "levels"),
    ],
)
def test_mistakes_end_with_one_line(
    model: Path,
    tiny_shards: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: list[str],
    code: int,
    words: str,
) -> None:
    (tmp_path / "file").write_text("no encoder")
    arguments = ["probe", "--encoder", str(model), "--data", str(tiny_shards), "--out", str(tmp_path / "run"), *FAST]
    given = [change.format(file=tmp_path / "file") for change in changes]
    assert main([*arguments, *given]) == code
    errors = capsys.readouterr().err
    assert words in errors.splitlines()[-1]
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("--linear.strengths=1,0", "linear.strengths has 0.0, expected numbers above 0"),
        ("--linear.iterations=0", "linear.iterations is 0, expected 1 or more"),
        ("--knn.k=0", "knn.k is 0, expected 1 or more"),
        ("--segmentation.strengths=1,0", "segmentation.strengths has 0.0, expected numbers above 0"),
        ("--segmentation.tokens=0", "segmentation.tokens is 0, expected 1 or more"),
        ("--segmentation.ground=0.7", "0 <= ground <= body <= 1, body above 0"),
        ("--knn.temperature=0", "knn.temperature is 0.0, expected a number above 0"),
        ("--pixels.size=0", "pixels.size is 0, expected 1 or more"),
        ("--clip.frames=0", "clip.frames is 0, expected 1 or more"),
        ("--clip.stride=-1", "clip.stride is -1, expected 1 or more"),
        ("--clip.size=0", "clip.size is 0, expected 1 or more"),
        ("--clip.fps=0", "clip.fps is 0.0, expected a number above 0"),
        ("--memory_gb=-1", "memory_gb is -1.0, expected 0 or more"),
    ],
)
def test_settings_that_cannot_be_are_named(
    model: Path, tiny_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str, words: str
) -> None:
    arguments = ["probe", "--encoder", str(model), "--data", str(tiny_shards), "--out", str(tmp_path / "run"), change]
    assert main(arguments) == 2
    errors = capsys.readouterr().err
    assert errors.splitlines()[-1].endswith(words)
    assert "Traceback" not in errors
    assert not (tmp_path / "run").exists(), "nothing was begun"


def test_segmentation_without_masks_ends_with_one_line(
    model: Path, tiny_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "test"):
        source = open_source(tiny_shards, split)
        (tmp_path / "data" / split).mkdir(parents=True)
        for index in range(3):
            (tmp_path / "data" / split / f"{index}.mp4").write_bytes(source.read(index))
    arguments = ["probe", "--encoder", str(model), "--data", str(tmp_path / "data"), "--out", str(tmp_path / "run")]
    assert main([*arguments, "--probes", "segmentation", "--loader.workers", "0"]) == 3
    errors = capsys.readouterr().err
    assert "has no masks.npz" in errors.splitlines()[-1]
    assert "Traceback" not in errors


def test_segmentation_from_the_command_line(
    model: Path, tiny_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["probe", "--encoder", str(model), "--data", str(tiny_shards), "--out", str(tmp_path)]
    part = ["--segmentation.body", "0.1", "--segmentation.ground", "0.1"]  # hardly a body covers half of a large patch
    assert main([*arguments, "--probes", "segmentation", "--loader.workers", "0", "--json", *part]) == 0
    results = json.loads(capsys.readouterr().out)
    metrics = ("mean_iou", "token_accuracy", "average_precision")
    assert [(result["encoder"], result["metric"]) for result in results] == [
        (encoder, metric) for encoder in ("pretrained", "random", "pixels") for metric in metrics
    ]


def test_a_file_that_is_no_encoder(tiny_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "model.safetensors"
    file.write_text("no encoder")
    assert main(["probe", "--encoder", str(file), "--data", str(tiny_shards), "--out", str(tmp_path / "run")]) == 3
    assert str(file) in capsys.readouterr().err
