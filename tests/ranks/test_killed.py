"""SIGKILL of the whole run at random steps, again and again: it goes on, and ends as if nothing had been."""

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jepa.checkpoints.store import CheckpointStore
from jepa.rng import generator
from jepa.training.order_file import OrderFile

Launch = Callable[..., Any]
Same = Callable[[Path, Path], None]


@pytest.mark.parametrize(
    ("world", "kills", "options"),
    [
        pytest.param(1, 5, ""),
        pytest.param(1, 20, "", marks=pytest.mark.slow),
        pytest.param(2, 20, "", marks=pytest.mark.slow),
        pytest.param(2, 10, "--run.strategy fsdp --run.save_in_background true", marks=pytest.mark.slow),
    ],
)
def test_killed_again_and_again(
    launch: Launch, mixed: str, tmp_path: Path, assert_same: Same, world: int, kills: int, options: str
) -> None:
    every, in_background = 4, "background" in options
    options = f"{mixed} --optim.steps {12 * kills} --run.checkpoint_every {every} {options}"
    whole, out = launch(tmp_path / "whole", options, world=world).done().steps(), tmp_path / "run"
    expected = OrderFile(tmp_path / "whole" / "order.jsonl").read()
    rng, done, moments = generator(0, kills, f"kill {world}"), 0, set()
    for _ in range(kills):
        begin = max(CheckpointStore(out / "checkpoints").steps(), default=0)
        # One interval is lost at most, and the one that was being written beside the training.
        assert done - begin <= every * (1 + in_background)
        crew = launch(out, f"{options} --resume", world=world)
        crew.reach(int(rng.integers(1, every + 3)))
        time.sleep(rng.uniform(0.0, 0.15))  # into a step, or a save
        crew.signal(signal.SIGKILL)
        crew.end()
        steps = crew.steps()
        done = steps[-1]["step"] + 1
        assert steps == whole[begin:done], "the exact steps, and bit by bit their losses, norms and weights"
        seen = OrderFile(out / "order.jsonl").read()
        assert seen == expected[: len(seen)]
        moments.add(done)
    assert len(moments) > kills / 2, "the moments differ"
    assert done < 12 * kills, "killed before the end"
    launch(out, f"{options} --resume", world=world).done()
    assert_same(tmp_path / "whole", out)


@pytest.mark.parametrize("link", ["step-000000006.ckpt", pytest.param(None, marks=pytest.mark.slow)])
def test_killed_between_the_last_checkpoint_and_its_link(launch: Launch, tmp_path: Path, link: str | None) -> None:
    """What comes after the run (its model, the next phase) starts from the newest checkpoint, not from the link."""
    out = tmp_path / "run"
    launch(out).done()
    (out / "model.safetensors").unlink()
    last = out / "checkpoints" / "last.ckpt"
    last.unlink()
    if link is not None:
        last.symlink_to(link)
    crew = launch(out, "--resume").done()
    assert crew.steps() == []
    assert last.readlink() == Path("step-000000008.ckpt")
    assert "nothing to resume" not in crew.wait(0).err
    again = launch(out).done()
    assert "is finished: 8 of 8 steps" in again.wait(0).err
