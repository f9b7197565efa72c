"""The command line under torchrun itself: from its own processes to what it makes of their ends."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jepa.checkpoints.store import CheckpointStore

Same = Callable[[Path, Path], None]
MICRO = Path(__file__).parents[1] / "micro.yaml"
PATIENCE = 400.0


class Torchrun:
    """One call of it."""

    def __init__(self, out: Path, data: Path, options: str, world: int, restarts: int = 0) -> None:
        agent = f"--nproc-per-node {world} --max-restarts {restarts} --rdzv-backend c10d --rdzv-endpoint localhost:0"
        command = f"pretrain --config {MICRO} --data {data} --out {out} {options}"
        self.log = out.with_name(f"{out.name}.log")
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "torch.distributed.run", *agent.split(), "-m", "jepa", *command.split()],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def rank(self, number: int) -> int:
        """Number of the process of a rank."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        ranks = {}
        for child in children:
            variables = Path(f"/proc/{child}/environ").read_text().split("\0")
            ranks |= {line: int(child) for line in variables if line.startswith("RANK=")}
        return ranks[f"RANK={number}"]

    def reach(self, file: Path) -> None:
        """Wait for a file."""
        end = time.monotonic() + PATIENCE
        while not file.exists():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end
            time.sleep(0.02)

    def end(self) -> tuple[int, str]:
        return self.process.wait(PATIENCE), self.log.read_text()


Run = Callable[..., Torchrun]


@pytest.fixture
def torchrun(tiny_shards: Path) -> Iterator[Run]:
    started: list[Torchrun] = []

    def start(out: Path, options: str, world: int = 2, **more: Any) -> Torchrun:
        started.append(Torchrun(out, tiny_shards, options, world, **more))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.terminate()  # it ends its processes
            one.process.wait(PATIENCE)


def test_two_processes(torchrun: Run, pair: Any, tmp_path: Path, assert_same: Same) -> None:
    out = tmp_path / "run"
    code, said = torchrun(out, pair.options).end()
    assert code == 0, said
    assert said.count("steps  8\n") == 1, "rank 0 alone speaks"
    assert_same(pair.out, out)


# Many steps; the checkpoint of step 3 has been written when they are disturbed.
LONG = "--optim.steps 2000 --run.checkpoint_every 3"


@pytest.mark.slow
def test_a_lost_process_is_started_again(torchrun: Run, pair: Any, tmp_path: Path, assert_same: Same) -> None:
    """SIGKILL of one of two: torchrun ends the other, starts both again, and they go on."""
    out = tmp_path / "run"
    run = torchrun(out, f"{pair.options} --resume", restarts=1)
    run.reach(out / "checkpoints" / "step-000000003.ckpt")
    os.kill(run.rank(1), signal.SIGKILL)
    code, said = run.end()
    assert code == 0, said
    assert_same(pair.out, out)


@pytest.mark.slow
def test_four_processes_that_are_terminated(torchrun: Run, tmp_path: Path) -> None:
    """SIGTERM to torchrun, as a scheduler sends it: passed on, and all is saved."""
    out = tmp_path / "run"
    run = torchrun(out, LONG, world=4)
    run.reach(out / "checkpoints" / "step-000000003.ckpt")
    run.process.send_signal(signal.SIGTERM)
    code, said = run.end()
    assert code != 0
    lines = [line for line in said.splitlines() if line.startswith("jepa pretrain:")]
    assert len(lines) == 1, said
    assert "stopped by SIGTERM after step" in lines[0]
    step = int(lines[0].split("after step ")[1].split(" ")[0])
    assert max(CheckpointStore(out / "checkpoints").steps()) == step


@pytest.mark.slow
def test_a_stopped_process(torchrun: Run, tmp_path: Path) -> None:
    """SIGSTOP of one of two: the other one waits for run.timeout, tells where, and ends; so does all."""
    out = tmp_path / "run"
    run = torchrun(out, f"{LONG} --run.timeout 30 --run.stall_after 5")
    run.reach(out / "checkpoints" / "step-000000003.ckpt")
    os.kill(run.rank(1), signal.SIGSTOP)
    code, said = run.end()
    assert code != 0
    assert "another process is gone, or did not answer for 30 s (run.timeout)" in said
    assert "most recent call first" in (out / "stacks" / "rank-0.txt").read_text()
