"""A loss that is no number on one process: none applies the step, none moves its target encoder, all decide alike."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jepa.checkpoints.store import CheckpointStore
from jepa.training.order_file import OrderFile

Launch = Callable[..., Any]
Same = Callable[[Path, Path], None]


def events(out: Path, *kinds: str) -> list[dict[str, Any]]:
    found = map(json.loads, (out / "events.jsonl").read_text().splitlines())
    return [event for event in found if event["kind"] in kinds]


def verdicts(steps: list[dict[str, Any]]) -> list[str]:
    return [step["verdict"] for step in steps]


def test_skipped_then_rolled_back(launch: Launch, mixed: str, tmp_path: Path, assert_same: Same) -> None:
    out = tmp_path / "run"
    mischief = {1: [("no_number", {"steps": [1, 5, 6]})]}
    crew = launch(out, mixed, world=2, mischief=mischief).done()
    first, second = crew.steps(0), crew.steps(1)
    assert first == second, "weights of both processes are the same before and after each step"
    assert verdicts(first) == ["apply", "skip", "apply", "apply", "apply", "skip", "rollback", "apply"]
    for step in first:
        assert (step["before"] == step["after"]) == (step["verdict"] != "apply"), step
    assert first[7]["before"] == first[4]["after"], "the weights of the checkpoint of step 6, in which 5 was skipped"
    assert [(event["kind"], event["step"]) for event in events(out, "skip", "rollback")] == [
        ("skip", 2), ("skip", 6), ("skip", 7), ("rollback", 7),
    ]  # fmt: skip
    assert events(out, "rollback")[0]["to"] == 6

    # Killed between the two bad steps, a run goes on to decide the same.
    again = tmp_path / "again"
    checkpoint = str(again / "checkpoints" / "step-000000006.ckpt")
    dies = {rank: [("dies", {"steps": [6], "checkpoint": checkpoint})] for rank in range(2)}
    crew = launch(again, mixed, world=2, mischief={0: dies[0], 1: [*mischief[1], *dies[1]]})
    assert [ended.code for ended in crew.end()] == [-signal.SIGKILL, -signal.SIGKILL]
    crew = launch(again, f"{mixed} --resume", world=2, mischief=mischief).done()
    assert crew.steps() == first[6:]
    assert_same(out, again)


def test_a_rollback_brings_the_weights_of_the_checkpoint_back(launch: Launch, single: Any, tmp_path: Path) -> None:
    """Of a divided model; here an applied step lies between the checkpoint and the bad steps. The third one ends it."""
    out = tmp_path / "run"
    options = f"{single.options} --run.strategy fsdp"
    crew = launch(out, options, world=2, mischief={1: [("no_number", {"steps": [4, 5, 6]})]})
    first, second = crew.end()
    steps = [crew.steps(rank) for rank in range(2)]
    assert [verdicts(mine) for mine in steps] == [["apply"] * 4 + ["skip", "rollback", "stop"]] * 2
    for mine in steps:
        assert mine[4]["before"] == mine[3]["after"] == mine[5]["after"], "nothing is applied"
        assert mine[6]["before"] == mine[2]["after"] == mine[6]["after"], "of the checkpoint of step 3"
    assert (first.code, second.code) == (4, 4)
    message = first.err.splitlines()[-1]
    keys = [row["key"] for row in OrderFile(single.out / "order.jsonl").read() if row["step"] == 6]
    assert message.startswith(f"jepa pretrain: error: loss is nan at step 7 on rank 1 (clips {', '.join(keys[2:])})")
    assert "in 3 steps in a row" in message
    assert all(line.startswith("[rank") for line in second.err.splitlines()), "rank 0 speaks for all"
    newest = CheckpointStore(out / "checkpoints").newest()
    assert newest is not None
    assert newest.step == 6
