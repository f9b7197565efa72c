"""Several processes that are stopped, lost or killed go on at the exact step, also as another number of processes."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jepa.checkpoints.store import CheckpointStore

Launch = Callable[..., Any]
Same = Callable[[Path, Path], None]
AGAIN = 75

LAUNCHED = "torchrun --nproc-per-node 2 -m jepa pretrain"


def told(ended: Any) -> list[str]:
    """Lines of a process, without what torch's own C++ says of rank 1 itself."""
    return [line for line in ended.err.splitlines() if not line.startswith("[rank")]


def saved(out: Path) -> list[int]:
    return CheckpointStore(out / "checkpoints").steps()


def losses(steps: list[dict[str, Any]]) -> list[float]:
    return [step["loss"] for step in steps]


def test_two_then_one_then_four(launch: Launch, single: Any, tmp_path: Path, assert_close: Same) -> None:
    """Each start is stopped by a signal to one process; all save after the same step."""
    out, options = tmp_path / "run", f"{single.options} --resume"
    two = launch(out, options, world=2, mischief={1: [("signals", {"names": ["SIGUSR1"], "steps": [1]})]})
    first, second = two.end()
    assert (first.code, second.code) == (AGAIN, AGAIN), first.err + second.err
    assert f"stopped by SIGUSR1 after step 2 of 8, state saved; continue with: {LAUNCHED}" in first.err
    assert told(second) == [], "rank 0 speaks for all"
    assert saved(out) == [2]
    one = launch(out, options, mischief={0: [("signals", {"names": ["SIGTERM"], "steps": [4]})]})
    assert one.wait(0).code == AGAIN
    assert saved(out)[-1] == 5
    four = launch(out, options, world=4).done()
    together = [*two.steps(), *one.steps(), *four.steps()]
    assert [step["step"] for step in together] == list(range(8))
    assert losses(together) == pytest.approx(losses(single.steps), rel=1e-5)
    assert_close(single.out, out)


def test_divided_then_copies_then_one(launch: Launch, divided: Any, tmp_path: Path, assert_close: Same) -> None:
    out, options = tmp_path / "run", f"{divided.options} --resume"
    stop = [("signals", {"names": ["SIGUSR2"], "steps": [1]})]
    two = launch(out, options, world=2, mischief={0: stop})
    assert [ended.code for ended in two.end()] == [AGAIN, AGAIN]
    assert (out / "checkpoints" / "last.ckpt").is_dir(), "divided on the disk, too"
    stop = [("signals", {"names": ["SIGTERM"], "steps": [4]})]
    copies = launch(out, f"{options} --run.strategy ddp", world=2, mischief={0: stop})
    assert [ended.code for ended in copies.end()] == [AGAIN, AGAIN]
    assert (out / "checkpoints" / "last.ckpt").is_file()
    again = launch(out, f"{options} --max-steps 6", world=2).done()  # divided, from what copies have saved
    one = launch(out, options).done()
    together = [*two.steps(), *copies.steps(), *again.steps(), *one.steps()]
    assert [step["step"] for step in together] == list(range(8))
    assert losses(together) == pytest.approx(losses(divided.steps), rel=1e-5)
    assert_close(divided.out, out)


@pytest.mark.parametrize(("name", "lost"), [("pair", 1), ("divided", 0)])
def test_a_lost_process(
    launch: Launch, request: pytest.FixtureRequest, tmp_path: Path, assert_same: Same, name: str, lost: int
) -> None:
    """SIGKILL of one process ends the others, at once and with one line; a restart ends as if nothing had been."""
    whole = request.getfixturevalue(name)
    out = tmp_path / "run"
    options = f"{whole.options} --run.save_in_background true --resume"
    dies = ("dies", {"steps": [4], "checkpoint": str(out / "checkpoints" / "step-000000003.ckpt")})
    crew = launch(out, options, world=2, mischief={lost: [dies]})
    assert crew.wait(lost).code == -signal.SIGKILL
    left = crew.wait(1 - lost)
    assert left.code == 1
    assert "another process is gone, or did not answer for 120 s (run.timeout)" in left.err.splitlines()[-1]
    assert f"continue with: {LAUNCHED} --config {out}/config.yaml --resume" in left.err
    assert "Traceback" not in left.err
    assert saved(out) == [3]
    again = launch(out, options, world=2).done()
    assert again.steps() == whole.steps[3:], "bit by bit: losses, norms and weights of each step"
    assert_same(whole.out, out)
