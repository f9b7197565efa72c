"""`jepa pretrain` from the command line: results, exit codes, one-line errors."""

import json
from pathlib import Path

import pytest

from jepa.cli import main

MICRO = str(Path(__file__).parents[1] / "micro.yaml")


@pytest.fixture
def arguments(tiny_shards: Path, tmp_path: Path) -> list[str]:
    return ["pretrain", "--config", MICRO, "--data", str(tiny_shards), "--out", str(tmp_path / "run")]


def test_the_result_is_on_stdout(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments, "--max-steps", "2"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["run"] == str(tmp_path / "run")
    assert lines["steps"] == "2"
    assert 0 < float(lines["loss"]) < 10
    assert Path(lines["model"]).is_file()


def test_json(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments, "--max-steps", "2", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["steps"] == 2
    assert set(result) == {"run", "steps", "loss", "model"}


def test_resume_from_the_run_s_own_configuration(arguments: list[str], tmp_path: Path) -> None:
    assert main([*arguments, "--max-steps", "2"]) == 0
    again = ["pretrain", "--config", str(tmp_path / "run" / "config.yaml")]
    assert main(again) == 0  # it is finished, and says so
    assert main([*again, "--max-steps", "4"]) == 2
    assert main([*again, "--resume"]) == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["step"] == 2
    assert main([*again, "--resume", "--max-steps", "4"]) == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["step"] == 4


@pytest.mark.parametrize(
    ("extra", "code", "message"),
    [
        (["--data", "/nowhere"], 3, "/nowhere"),
        (["--max-steps", "0"], 2, "max_steps is 0"),
        (["--optim.learning_rat", "1"], 2, "learning_rate"),
        (["--clip.size", "30"], 2, "multiple of 8"),
        (["--init", "/nowhere"], 3, "/nowhere"),
        (["--objective.target", "frozen"], 2, "teacher"),
        (["--objective.target", "teacher"], 2, "objective.teacher"),
        (["--objective.target", "teacher", "--objective.teacher", "/nowhere"], 3, "/nowhere"),
        (["--objective.teacher", "jepa-nano"], 2, "objective.target is ema, expected teacher"),
        (["--objective.context_weight", "0.5"], 2, "model.context_head"),
        (["--clip.stride", "100"], 3, "clip.stride"),
        (["--loader.batch_size", "1000"], 2, "loader.batch_size"),
        (["--run.log_every", "0"], 2, "run.log_every"),
        (["--out", "/proc/run"], 2, "/proc/run"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], extra: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, *extra]) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err.splitlines()[-1]
    assert "Traceback" not in printed.err


def test_a_run_that_diverges_exits_with_4(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments, "--optim.learning_rate", "1e38", "--optim.warmup_steps", "0"]) == 4
    assert "at step" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("name", ["demo", "demo-reconstruction", "demo-dense"])
def test_shipped_configurations_run(name: str, tiny_shards: Path, tmp_path: Path) -> None:
    paths = ["--data", str(tiny_shards), "--out", str(tmp_path / "run")]
    assert main(["pretrain", "--config", name, *paths, "--max-steps", "2", "--loader.batch_size", "8"]) == 0


def test_the_large_shipped_configuration_runs_shrunk(tiny_shards: Path, tmp_path: Path) -> None:
    paths = ["--data", str(tiny_shards), "--out", str(tmp_path / "run")]
    shrunk = ["--model.size", "nano", "--clip.size", "64", "--loader.batch_size", "2", "--loader.workers", "0"]
    command = ["pretrain", "--config", "vjepa2-vitl16-90k", *paths, *shrunk]
    assert main([*command, "--max-steps", "1", "--run.device", "cpu"]) == 0


PHASES = """\
phases:
  - {name: pretrain}
  - name: cooldown
    changes:
      clip: {frames: 8, size: 24}
      optim: {steps: 3, decay: linear, warmup_steps: 0}
"""


def test_two_phases_from_one_file(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, run = tmp_path / "phases.yaml", tmp_path / "run"
    file.write_text(PHASES)
    assert main([*arguments, "--config", str(file), "--max-steps", "2", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["run"], result["steps"], result["model"]) == (str(run), 4, str(run / "model.safetensors"))
    again = ["pretrain", "--config", str(run / "config.yaml"), "--resume"]
    assert main(again) == 0
    assert "is finished" in capsys.readouterr().err
    assert main([*again, "--max-steps", "3"]) == 2
    assert "ended after 2 steps" in capsys.readouterr().err
    assert main(["report", str(run)]) == 0
    page = (run / "report.html").read_text()
    assert "Stage 1-pretrain" in page
    assert "1-pretrain 2 steps (8 clips), final stage 2 steps (8 clips)" in page
    assert "8 frames of 24 x 24 pixels" in page
    assert "metrics.csv is missing" not in page


def test_a_mistake_in_a_phase_is_told_with_its_line(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "phases.yaml"
    for right, wrong, message in (
        ("frames: 8", "frame: 8", f"{file}:5: phases: changes: unknown key 'clip.frame'; did you mean 'clip.frames'?"),
        ("steps: 3", "steps: x", f'{file}:6: phases: changes: optim.steps: expected int, got "x"'),
        ("steps: 3", "steps: 0", "phase cooldown: optim.steps is 0, expected at least 1"),
        ("optim:", "resume: true\n      optim:", f"{file}:3: phases: changes: resume: said for the whole run"),
        ("name: cooldown", "name: pretrain", "the name 'pretrain' is given twice"),
    ):
        assert right in PHASES
        file.write_text(PHASES.replace(right, wrong))
        assert main([*arguments, "--config", str(file)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
    assert not (tmp_path / "run").exists()
