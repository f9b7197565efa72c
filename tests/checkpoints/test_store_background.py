"""Saving beside the training: what is written is the state at `submit`, and errors come back."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from jepa.checkpoints.background import BackgroundSaver, copied
from jepa.checkpoints.store import CheckpointStore, Saved
from jepa.errors import ConfigError


class Gate(CheckpointStore):
    """A store whose saves wait to be let through."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.begun, self.open = threading.Event(), threading.Event()
        self.active = 0

    def save(self, step: int, state: dict[str, Any], facts: Any) -> Saved:
        self.active += 1
        assert self.active == 1, "two at once"
        self.begun.set()
        assert self.open.wait(60)
        saved = super().save(step, state, facts)
        self.active -= 1
        return saved


def test_what_is_written_is_the_state_of_then(tmp_path: Path) -> None:
    store = Gate(tmp_path / "checkpoints")
    saver = BackgroundSaver(store)
    weights, rows, facts = torch.ones(5), [1, 2], {"fingerprint": "f00"}
    state = {"state_dict": {"w": weights, "tied": weights}, "callbacks": {"rows": rows}}
    stall = saver.submit(1, state, facts)
    assert store.begun.wait(60)
    assert saver.poll() == []
    weights.zero_()
    rows.append(3)
    state["more"] = {}
    facts["fingerprint"] = "other"
    store.open.set()
    saved = saver.wait()
    assert saved is not None
    found = store.load(saved)
    assert torch.equal(found["state_dict"]["w"], torch.ones(5))
    assert found["callbacks"] == {"rows": [1, 2]}
    assert "more" not in found
    assert found["jepa"]["fingerprint"] == "f00"
    (written,) = saver.poll()
    assert (written.saved, written.stall) == (saved, stall)
    assert written.seconds > 0
    assert saver.poll() == []
    assert saver.wait() == saved


def test_the_next_one_waits_for_the_one_before(tmp_path: Path) -> None:
    store = Gate(tmp_path / "checkpoints")
    saver = BackgroundSaver(store)
    saver.submit(1, {"state_dict": {"w": torch.ones(5)}}, {})
    threading.Timer(0.2, store.open.set).start()
    for step in (2, 3):
        saver.submit(step, {"state_dict": {"w": torch.ones(5)}}, {})
    saved = saver.wait()
    assert saved is not None
    assert saved.step == 3
    assert [written.saved.step for written in saver.poll()] == [1, 2, 3]
    assert store.steps() == [2, 3]


@pytest.mark.parametrize("ask", [BackgroundSaver.wait, lambda saver: saver.submit(2, {}, {})])
def test_an_error_of_the_writing_comes_back_once(tmp_path: Path, ask: Callable[[BackgroundSaver], object]) -> None:
    (tmp_path / "checkpoints").touch()
    saver = BackgroundSaver(CheckpointStore(tmp_path / "checkpoints"))
    assert not saver.failed
    saver.submit(1, {"state_dict": {}}, {})
    assert saver._writing is not None
    saver._writing.exception(60)
    assert saver.failed
    assert saver.poll() == [], "asks, and leaves the error to who waits"
    assert saver.failed
    with pytest.raises(ConfigError, match="part of the path is a file"):
        ask(saver)
    assert not saver.failed
    assert saver.wait() is None


def test_a_copy_shares_nothing_and_keeps_what_is_shared_inside() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    state = {"a": weight, "b": [weight, {"c": torch.zeros(2)}], "d": (1, "x")}
    copy = copied(state)
    assert copy["a"] is copy["b"][0]  # torch.save then writes it once
    assert copy["a"].data_ptr() != weight.data_ptr()
    assert not copy["a"].requires_grad
    assert copy["d"] == (1, "x")
    assert copy["b"] is not state["b"]
