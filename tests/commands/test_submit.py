"""`jepa submit` without Slurm, or with one that only writes down what it is asked; tests/cluster has a real one."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from jepa.cli import main
from jepa.config import load
from jepa.slurm import queue, snapshot
from jepa.slurm.follow import follow
from jepa.slurm.snapshot import is_installed
from jepa.training.config import PretrainConfig

ROOT = Path(__file__).parents[2]
Words = list[str]


@pytest.fixture
def pretrain(tiny_shards: Path, tmp_path: Path) -> Words:
    """The command of a run."""
    config = ["--config", f"{ROOT}/tests/micro.yaml"]
    return ["--", "pretrain", *config, "--data", str(tiny_shards), "--out", str(tmp_path / "run")]


@pytest.fixture
def sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """`sbatch(body)` puts a command of this name first; the file with its arguments."""

    def made(body: str) -> Path:
        folder = tmp_path / "bin"
        folder.mkdir()
        (folder / "sbatch").write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" > {folder}/words\n{body}\n')
        (folder / "sbatch").chmod(0o755)
        (folder / "squeue").write_text("#!/bin/bash\necho PENDING Priority\n")
        (folder / "squeue").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
        return folder / "words"

    return made


def fails(words: Words, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["submit", *words]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    return printed.err.splitlines()[-1]


def test_a_dry_run_prints_the_script_and_writes_nothing(
    pretrain: Words, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert main(["submit", "--gpus-per-node", "0", "--dry-run", *pretrain]) == 0
    text = capsys.readouterr().out
    assert text.startswith("#!/bin/bash\n# run: 1 x 1 processes\n")
    assert "python -P -m jepa pretrain --config" in text.replace(sys.executable, "python")
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
    assert sorted(tmp_path.rglob("*")) == before


def test_a_submission_keeps_code_and_configuration(
    pretrain: Words, sbatch: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = sbatch("echo '77;north'")
    options = ["--gpus-per-node", "0", "--nodes", "2", "--partition", "long", "--requeue", "false", "--json"]
    assert main(["submit", *options, *pretrain, "--optim.steps", "9"]) == 0
    facts = json.loads(capsys.readouterr().out)
    (folder,) = (tmp_path / "run" / "submit").iterdir()
    expected = {"job": "77", "run": tmp_path / "run", "script": folder / "job.sbatch", "log": folder / "slurm-77.out"}
    assert facts == {name: str(value) for name, value in expected.items()}
    assert asked.read_text().splitlines()[-1] == facts["script"]
    assert {"--parsable", "--nodes=2", "--partition=long", "--no-requeue"} <= set(asked.read_text().splitlines())
    kept = load(PretrainConfig, folder / "config.yaml")
    assert (kept.optim.steps, kept.run.requeue, kept.resume) == (9, False, False)
    assert not list((folder / "code").rglob("__pycache__"))
    assert not [path for path in (folder / "code").rglob("*") if path.is_symlink()]
    # The package works from the copy, with another working folder, and is the copy.
    code = "import jepa, jepa.data.order, jepa.slurm.script as s; print(jepa.__file__, s.TEMPLATE.is_file())"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={"PYTHONPATH": str(folder / "code")}, cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == [str(folder / "code" / "jepa" / "__init__.py"), "True"]


def test_the_copy_knows_its_commit(tmp_path: Path) -> None:
    from jepa.training.environment import COMMIT, code_commit

    (tmp_path / "jepa").mkdir()
    assert code_commit(tmp_path / "jepa") is None
    (tmp_path / COMMIT).write_text("0123abc-dirty\n")
    assert code_commit(tmp_path / "jepa") == "0123abc-dirty"


def test_an_installed_package_is_not_copied() -> None:
    assert is_installed(Path("/opt/venv/lib/python3.12/site-packages/jepa"))
    assert not is_installed(ROOT / "jepa")


def test_options_before_and_after_the_command(pretrain: Words, capsys: pytest.CaptureFixture[str]) -> None:
    """The two dashes may be left out, and each side keeps its own options."""
    words = ["--gpus-per-node", "0", "--name", "mine", "--dry-run", *pretrain[1:], "--resume"]
    assert main(["submit", *words]) == 0
    assert "#SBATCH --job-name=mine\n" in capsys.readouterr().out


def test_what_the_run_would_be_is_printed(pretrain: Words, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", *pretrain, "--print-config"]) == 0
    assert "data: " in capsys.readouterr().out


def test_a_file_with_the_habits_of_a_site(pretrain: Words, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site = tmp_path / "site.yaml"
    site.write_text('{partition: night, gpus_per_node: 0, time: "30", env: ["A=1,2"], container: {image: a.sqsh}}\n')
    assert main(["submit", "--config", str(site), "--partition", "day", "--dry-run", *pretrain]) == 0
    text = capsys.readouterr().out
    for line in ("#SBATCH --partition=day", "#SBATCH --time=30", "export A=1,2"):
        assert line in text.splitlines()
    assert "--container-image=a.sqsh" in text


def test_mistakes_in_the_run_are_told_before_it_is_submitted(
    pretrain: Words, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "unknown option '--optim.stepz'" in fails([*pretrain, "--optim.stepz", "3"], capsys)
    assert "optim.steps is 0" in fails([*pretrain, "--optim.steps", "0"], capsys)
    assert "loader.batch_size 4 does not divide among 3 processes" in fails(["--nodes", "3", *pretrain], capsys)
    late = ["--time", "2", "--signal", "null", *pretrain]
    assert "the job would stop as soon as it starts" in fails(late, capsys)
    assert "the path" in fails([*pretrain[:-1], f"{tmp_path}/a\nb"], capsys)
    assert "setup: no file" in fails(["--setup", str(tmp_path / "none"), *pretrain], capsys)
    assert "--follow shows one log" in fails(["--follow", "--array", "0-3", *pretrain], capsys)
    assert "cannot submit 'probe', only pretrain" in fails(["probe", "--data", "x"], capsys)
    assert "missing command" in fails(["--nodes", "1"], capsys)
    assert not (tmp_path / "run").exists()


def test_weights_that_are_not_there_are_told_before(
    pretrain: Words, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--gpus-per-node", "0", "--dry-run", *pretrain, "--init", f"{tmp_path}/gone"]
    assert main(["submit", *words]) == 0
    assert f"{tmp_path}/gone is not there as seen from this machine" in capsys.readouterr().err


def test_another_run_in_the_folder_is_told_before(
    pretrain: Words, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_run, tmp_path / "run")
    assert "cannot resume with another configuration" in fails(pretrain, capsys)
    assert not (tmp_path / "run" / "submit").exists()


def test_without_slurm(
    pretrain: Words, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "there is no sbatch on this machine" in fails(pretrain, capsys)
    assert not (tmp_path / "run").exists()


def test_a_refusal_is_one_line_and_leaves_nothing(
    pretrain: Words, sbatch: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sbatch('echo "sbatch: error: No such qos" >&2; echo "sbatch: error: Job failed." >&2; exit 1')
    assert fails(pretrain, capsys) == "jepa submit: error: sbatch refuses the job: No such qos; Job failed"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("sleep 30; echo 5", "gave no answer"),
        ('echo "sbatch: error: Socket timed out on send/recv operation" >&2; exit 1', "did not end well (Socket timed"),
        ("kill -9 $$", "did not end well (signal 9)"),
        ("echo fine", "did not print its number"),
    ],
)
def test_the_files_of_a_job_that_may_be_queued_stay(
    pretrain: Words,
    sbatch: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    body: str,
    words: str,
) -> None:
    sbatch(body)
    monkeypatch.setattr(queue, "_SECONDS", 1 if "sleep" in body else 30)
    said = fails(pretrain, capsys)
    (folder,) = (tmp_path / "run" / "submit").iterdir()
    assert words in said
    assert f"look whether the job exists (squeue --me); if not, submit again and remove {folder}" in said
    assert {"job.sbatch", "config.yaml"} <= {path.name for path in folder.iterdir()}


def test_two_submissions_in_one_second_have_a_folder_each(
    pretrain: Words, sbatch: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if neither sees the other's before it makes its own; and the refusal of one leaves the other's."""
    monkeypatch.setattr(snapshot.time, "strftime", lambda form: "20261122-174129")
    monkeypatch.setattr(Path, "exists", lambda path, *args, **kwargs: False)  # both have looked already
    first, second = (snapshot.new_folder(tmp_path / "run") for _ in range(2))
    monkeypatch.undo()
    assert (first.name, second.name) == ("20261122-174129", "20261122-174129-2")
    (first / "job.sbatch").write_text("mine")
    sbatch("exit 1")
    monkeypatch.setattr(snapshot.time, "strftime", lambda form: "20261122-174129")
    second.rmdir()
    assert main(["submit", *pretrain]) == 2
    assert [path.name for path in (tmp_path / "run" / "submit").iterdir()] == [first.name]
    assert (first / "job.sbatch").read_text() == "mine"


def test_the_job_we_are_in_is_no_part_of_the_new_one(
    pretrain: Words, sbatch: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "9")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    sbatch(f"printenv > {tmp_path}/environ; echo 5")
    assert main(["submit", *pretrain]) == 0
    lines = (tmp_path / "environ").read_text().splitlines()
    assert [line for line in lines if line.startswith("SLURM_")] == ["SLURM_CONF=/etc/slurm.conf"]


def test_a_log_is_followed_over_the_starts_of_a_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log"
    states = iter(["PENDING", "RUNNING", "RUNNING", "COMPLETING", "PENDING", "RUNNING", "COMPLETED"])
    parts = iter([None, "one\n", "", "two\n", None, "three\n", "four\n"])

    def ask(number: str) -> tuple[str, str]:
        if part := next(parts):
            with log.open("a") as file:
                file.write(part)
        return next(states), "None"

    assert follow("7", log, ask=ask, pause=0) == "COMPLETED"
    assert capsys.readouterr().out == "one\ntwo\nthree\nfour\n"


def test_what_sbatch_says_in_one_line() -> None:
    text = "sbatch: error: Memory specification can not be satisfied\nsbatch: fatal: Stop.\nsbatch: fatal: Stop.\n\n"
    assert queue.reason_of(text) == "Memory specification can not be satisfied; Stop"
