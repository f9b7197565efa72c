"""`jepa submit` on a real Slurm of two nodes: training, requeueing, resuming, ending.

All runs train the same model on the same clips with two processes, one per node. The one that nothing interrupts is
made once; what was interrupted, in whichever way, must end with the same bits.
"""

import json
import re
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from jepa.cli import main

ROOT = Path(__file__).parents[2]
STEPS = 60
CPUS = ["--gpus-per-node", 0, "--env", "GLOO_SOCKET_IFNAME=lo,OMP_NUM_THREADS=1"]


def pretrain(data: Path, out: Path, *more: object) -> list[object]:
    """The command of the run that all tests train; with a worker per process, which is signalled like its parent."""
    options = ["--optim.steps", STEPS, "--loader.workers", 1, "--run.checkpoint_every", 1000, "--run.log_every", 1]
    return ["pretrain", "--config", ROOT / "tests/micro.yaml", "--data", data, "--out", out, *options, *more]


@pytest.fixture
def here(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line of this process talks to the cluster."""
    for name, value in cluster.environ.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def submit(here: None, capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, str]]:
    """`submit(*options, command=[...])`: number, script and log of the job, and what was said on stderr."""

    def submitted(*options: object, command: list[object]) -> dict[str, str]:
        code = main(["submit", *map(str, [*CPUS, *options, "--json", "--", *command])])
        printed = capsys.readouterr()
        assert code == 0, printed.err
        return json.loads(printed.out) | {"stderr": printed.err}

    return submitted


@pytest.fixture(scope="session")
def whole(cluster: Any, tiny_shards: Path, once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """The run folder that two nodes made without interruption, by way of `jepa submit`, and what was printed."""

    def make(folder: Path) -> None:
        command = pretrain(tiny_shards, folder / "run")
        done = cluster.jepa("submit", *CPUS, "--nodes", 2, "--time", 10, "--", *command)
        assert done.returncode == 0, done.stderr
        (folder / "printed.txt").write_text(done.stdout)
        job = re.search(r"^job +(\d+)$", done.stdout, re.M)[1]  # type: ignore[index]
        facts = cluster.ended(job)
        (log,) = folder.glob("run/submit/*/slurm-*.out")
        assert (facts["JobState"], facts["Restarts"]) == ("COMPLETED", "0"), log.read_text()

    return once("two-nodes", make)


def weights(run: Path) -> dict[str, torch.Tensor]:
    """All tensors of a finished run: its model, and the state that would continue it."""
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    moments = {
        f"{name}.{key}": value for name, row in state["optimizer"]["state"].items() for key, value in row.items()
    }
    return load_file(run / "model.safetensors") | state["state_dict"] | moments


def assert_same_bits(one: Path, other: Path) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def events(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]


def starts(run: Path) -> list[int]:
    """Steps at which the starts of a run began."""
    return [start["step"] for start in json.loads((run / "environment.json").read_text())["starts"]]


def rows(run: Path) -> int:
    path = run / "metrics.csv"
    return max(len(path.read_text().splitlines()) - 1, 0) if path.exists() else 0


def test_a_job_runs_on_two_nodes(cluster: Any, tmp_path: Path) -> None:
    """The harness itself."""
    script = tmp_path / "job"
    script.write_text("#!/bin/bash\nsrun bash -c 'echo $SLURM_PROCID $SLURMD_NODENAME'\n")
    options = ["--nodes=2", "--ntasks-per-node=1", "--time=1", f"--output={tmp_path}/out"]
    job = cluster.run("sbatch", "--parsable", *options, str(script))
    assert cluster.ended(job)["JobState"] == "COMPLETED"
    assert sorted((tmp_path / "out").read_text().splitlines()) == ["0 node1", "1 node2"]


def test_two_nodes_train_one_model(whole: Path) -> None:
    run = whole / "run"
    (log,) = run.glob("submit/*/slurm-*.out")
    assert starts(run) == [0]
    assert json.loads((run / "environment.json").read_text())["starts"][0]["ranks"] == 2
    assert json.loads((run / "status.json").read_text())["state"] == "finished"
    assert json.loads((run / "config.json").read_text())["step"] == STEPS
    assert f"run    {run}" in log.read_text()  # what `jepa pretrain` prints, once
    assert log.read_text().count(f"run    {run}") == 1
    # What is said about the job, and the code that it ran.
    printed = (whole / "printed.txt").read_text()
    for words in (f"tail -F {log}", "squeue --jobs", f"jepa status {run}", "scancel --signal=USR1"):
        assert words in printed
    assert (log.parent / "code" / "jepa" / "data" / "order.py").is_file()
    assert not (log.parent / "code" / "jepa" / "data").is_symlink()


def test_a_signal_saves_requeues_and_resumes_to_the_same_bits(
    cluster: Any, submit: Any, whole: Path, tiny_shards: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    job = submit("--nodes", 2, "--time", 10, command=pretrain(tiny_shards, run))
    cluster.until(lambda: rows(run) > 2, f"the first steps; {_log(job)}")
    cluster.run("scancel", "--signal=USR1", job["job"])
    cluster.until(lambda: cluster.show(job["job"])["Restarts"] == "1", f"Slurm to requeue the job; {_log(job)}")
    facts = cluster.ended(job["job"])
    assert (facts["JobState"], facts["Restarts"]) == ("COMPLETED", "1"), _log(job)
    first, second = starts(run)
    assert first == 0
    assert 0 < second < STEPS
    assert [event["step"] for event in events(run) if event["kind"] == "stop"] == [second]
    assert rows(run) == STEPS  # no step twice, none left out
    assert_same_bits(whole / "run", run)
    text = Path(job["log"]).read_text()  # both starts in one file
    assert [text.count(f"job {job['job']}, start {number}, ") for number in (1, 2, 3)] == [1, 1, 0]


def test_the_time_limit_does_the_same(
    cluster: Any, submit: Any, whole: Path, tiny_shards: Path, tmp_path: Path
) -> None:
    """A minute is the least that Slurm knows; 58 seconds before its end the first step is not done yet."""
    run = tmp_path / "run"
    command = pretrain(tiny_shards, run, "--run.stop_before", 58)
    job = submit("--nodes", 2, "--time", 1, "--signal", "null", command=command)
    cluster.until(lambda: cluster.show(job["job"])["Restarts"] == "1", f"Slurm to requeue the job; {_log(job)}")
    cluster.run("scontrol", "update", f"jobid={job['job']}", "timelimit=10")
    facts = cluster.ended(job["job"])
    assert (facts["JobState"], facts["Restarts"]) == ("COMPLETED", "1"), _log(job)
    assert starts(run) == [0, 1]
    (stop,) = [event for event in events(run) if event["kind"] == "stop"]
    assert "time limit" in stop["reason"]
    assert_same_bits(whole / "run", run)


def test_a_cancelled_job_saves_and_stays_away(cluster: Any, submit: Any, tiny_shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    job = submit("--nodes", 2, "--time", 10, command=pretrain(tiny_shards, run))
    cluster.until(lambda: rows(run) > 2, f"the first steps; {_log(job)}")
    cluster.run("scancel", job["job"])
    assert cluster.ended(job["job"])["JobState"] == "CANCELLED", _log(job)
    time.sleep(3)  # whoever puts a job back does it before it ends, and Slurm shows that at once
    facts = cluster.show(job["job"])
    assert (facts["JobState"], facts["Restarts"]) == ("CANCELLED", "0"), _log(job)
    assert (run / "checkpoints" / "last.ckpt").exists()


def test_several_tasks_without_srun_are_an_error(cluster: Any, tiny_shards: Path, tmp_path: Path) -> None:
    script, log = tmp_path / "job", tmp_path / "out"
    command = [sys.executable, "-m", "jepa", *map(str, pretrain(tiny_shards, tmp_path / "run"))]
    script.write_text(f"#!/bin/bash\n{shlex.join(command)}\n")
    options = ["--nodes=1", "--ntasks-per-node=2", f"--output={log}", f"--chdir={ROOT}"]
    job = cluster.run("sbatch", "--parsable", *options, str(script))
    assert cluster.ended(job)["ExitCode"] == "2:0", log.read_text()
    (line,) = log.read_text().splitlines()
    assert line.startswith(f"jepa pretrain: error: job {job} has 2 tasks")
    assert "srun" in line
    assert not (tmp_path / "run").exists()


def test_an_array_trains_a_seed_per_task(cluster: Any, submit: Any, tiny_shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "100% of $HOME"
    job = submit("--array", "3,5", "--time", 10, command=pretrain(tiny_shards, out, "--max-steps", 2))
    for task in (3, 5):
        one = cluster.ended(f"{job['job']}_{task}")
        log = out / Path(job["log"]).relative_to(out).parent / f"slurm-{job['job']}_{task}.out"
        assert one["JobState"] == "COMPLETED", log.read_text()
        assert f"seed: {task}\n" in (out / f"seed-{task}" / "config.yaml").read_text()
    first, second = (load_file(out / f"seed-{task}" / "model.safetensors") for task in (3, 5))
    assert any(not torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--partition", "night"], "sbatch refuses the job: invalid partition specified: night; Batch job submission"),
        (["--gpus-per-node", "1"], "sbatch refuses the job: Invalid generic resource (gres) specification"),
        (
            ["--constraint", "a100"],
            "sbatch refuses the job: Batch job submission failed: Invalid feature specification",
        ),
    ],
)
@pytest.mark.usefixtures("here")
def test_a_refused_job_is_one_line_and_leaves_nothing(
    tiny_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    words = ["submit", *CPUS, *options, "--", *pretrain(tiny_shards, tmp_path / "run")]
    assert main([str(word) for word in words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"jepa submit: error: {message}")
    assert not (tmp_path / "run").exists()


def test_a_job_that_can_never_start_is_told(submit: Any, tiny_shards: Path, tmp_path: Path) -> None:
    job = submit("--nodes", 3, command=pretrain(tiny_shards, tmp_path / "run", "--loader.batch_size", 12))
    assert f"warning: job {job['job']} will not start as it is (PartitionConfig)" in job["stderr"]


def _log(job: dict[str, str]) -> str:
    path = Path(job["log"])
    return path.read_text() if path.exists() else "no log yet"
