"""What is learned does not depend on how many processes learn it, and in which parts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Launch = Callable[..., Any]
Same = Callable[[Path, Path], None]


def losses(steps: list[dict[str, Any]]) -> list[float]:
    return [step["loss"] for step in steps]


def norms(steps: list[dict[str, Any]]) -> list[float]:
    return [step["norm"] for step in steps]


def test_two_processes(single: Any, pair: Any, assert_close: Same) -> None:
    assert len(single.steps) == len(pair.steps) == 8
    assert losses(pair.steps) == pytest.approx(losses(single.steps), rel=1e-5)
    assert norms(pair.steps) == pytest.approx(norms(single.steps), rel=1e-4)
    assert_close(single.out, pair.out)


def test_a_divided_model(pair: Any, divided: Any, assert_close: Same) -> None:
    assert losses(divided.steps) == pytest.approx(losses(pair.steps), rel=1e-5)
    assert norms(divided.steps) == pytest.approx(norms(pair.steps), rel=1e-4)
    assert_close(pair.out, divided.out)


def test_one_clip_per_process_and_in_parts(launch: Launch, single: Any, tmp_path: Path, assert_close: Same) -> None:
    four = launch(tmp_path / "four", single.options, world=4).done()
    parts = launch(tmp_path / "parts", f"{single.options} --run.device_batch 1", world=2).done()
    for crew, name in ((four, "four"), (parts, "parts")):
        assert losses(crew.steps()) == pytest.approx(losses(single.steps), rel=1e-5)
        assert_close(single.out, tmp_path / name)
    assert len({tuple(losses(four.steps(rank))) for rank in range(4)}) == 1, "all processes tell the same losses"


def test_dense_objective(launch: Launch, tmp_path: Path) -> None:
    options = "--objective.context_weight 0.5 --model.context_head true --max-steps 4 --optim.clip null"
    one = launch(tmp_path / "one", options).done()
    two = launch(tmp_path / "two", options, world=2).done()
    assert losses(two.steps()) == pytest.approx(losses(one.steps()), rel=1e-5)
