"""What several processes agree on, with the processes as threads around one sum."""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
import torch
from torch import Tensor, distributed

from jepa.training.agreement import FAILED_SAVE, WISHES, Agreed, Agreement
from jepa.training.preemption import TIME_LIMIT

CPU = torch.device("cpu")


def agree(monkeypatch: pytest.MonkeyPatch, *processes: tuple[Sequence[float], str | None]) -> list[Agreed]:
    """What each process gets that has these losses, one per part, and this wish."""
    count, given = len(processes), list[Tensor]()
    barrier = Barrier(count)

    def all_reduce(packed: Tensor) -> None:
        given.append(packed.clone())
        barrier.wait()
        packed.copy_(torch.stack(given).sum(0))
        barrier.wait()

    monkeypatch.setattr(distributed, "all_reduce", all_reduce)

    def process(losses: Sequence[float], wish: str | None) -> Agreed:
        parts = [torch.tensor(loss) for loss in losses]
        values = {"loss": torch.stack(parts).mean(), "loss/dense": torch.tensor(2.0)}
        return Agreement(count, CPU)(values, parts, torch.tensor(3.5), wish)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda one: process(*one), processes))


def test_means_and_no_wish(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, three = agree(monkeypatch, ([1.0, 3.0], None), ([4.0, 4.0], None), ([0.0, 0.0], None))
    assert one == two == three
    assert one.values == {"loss": pytest.approx(2.0), "loss/dense": pytest.approx(2.0)}
    assert (one.grad_norm, one.bad_losses, one.wish) == (pytest.approx(3.5), 0, None)


def test_a_loss_that_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = agree(
        monkeypatch, ([1.0, 1.0], None), ([1.0, math.nan], None), ([math.inf, -math.inf], None)
    )
    assert [agreed.bad_losses for agreed in (first, second, third)] == [2, 2, 2]
    assert math.isnan(first.values["loss"])


@pytest.mark.parametrize("wish", WISHES)
def test_the_wish_of_one_is_that_of_all(monkeypatch: pytest.MonkeyPatch, wish: str) -> None:
    assert [agreed.wish for agreed in agree(monkeypatch, ([1.0], None), ([1.0], wish))] == [wish, wish]


def test_of_several_wishes_the_first_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    wishes: list[Any] = [TIME_LIMIT, "SIGTERM", FAILED_SAVE]
    assert {agreed.wish for agreed in agree(monkeypatch, *(([1.0], wish) for wish in wishes))} == {FAILED_SAVE}
    assert {agreed.wish for agreed in agree(monkeypatch, *(([1.0], wish) for wish in wishes[:2]))} == {"SIGTERM"}


def test_a_single_process_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(distributed, "all_reduce")
    parts = [torch.tensor(0.1), torch.tensor(0.2)]
    agreed = Agreement(1, CPU)({"loss": torch.stack(parts).mean()}, parts, torch.tensor(1.0), "SIGINT")
    assert agreed == Agreed({"loss": pytest.approx(0.15)}, 1.0, 0, "SIGINT")
