"""What one process decides, all do; what one fails in, all end with. The processes are threads around one gathering."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
import torch
from torch import distributed

from jepa.errors import ConfigError, DataError, InterruptedRun, JepaError
from jepa.training.launch import Ranks
from jepa.training.team import OthersTell, Team, has_lost_another, ranks_text

CPU = torch.device("cpu")


def as_team(monkeypatch: pytest.MonkeyPatch, size: int, act: Callable[[Team], Any]) -> list[Any]:
    """What `act(team)` gives, or raises, in each of so many processes."""
    barrier, table = Barrier(size), dict[int, Any]()
    monkeypatch.setattr(Team, "_meet", lambda team: None)
    teams = [Team(Ranks(rank, size, rank, size), CPU, 60.0) for rank in range(size)]

    def run(team: Team) -> Any:
        def gather(values: list[Any], value: Any, group: Any = None) -> None:
            table[team.ranks.rank] = value
            barrier.wait(60)
            values[:] = [table[rank] for rank in range(size)]
            barrier.wait(60)

        gathers[team.ranks.rank] = gather
        try:
            return act(team)
        except BaseException as error:
            return error

    gathers: dict[int, Any] = {}
    monkeypatch.setattr(Team, "gather", lambda team, value: _gathered(gathers[team.ranks.rank], size, value))
    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(run, teams))


def _gathered(gather: Any, size: int, value: Any) -> list[Any]:
    values: list[Any] = [None] * size
    gather(values, value)
    return values


def fails(*ranks: int, error: Callable[[int], Exception]) -> Callable[[Team], Any]:
    def act(team: Team) -> int:
        def action() -> int:
            if team.ranks.rank in ranks:
                raise error(team.ranks.rank)
            return team.ranks.rank * 10

        return team.together(action)

    return act


def test_together_and_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert as_team(monkeypatch, 3, fails(error=DataError)) == [0, 10, 20]
    asked: list[int] = []

    def decide(team: Team) -> Any:
        return team.alone(lambda: asked.append(team.ranks.rank) or "yes")

    assert as_team(monkeypatch, 3, decide) == ["yes"] * 3
    assert asked == [0]


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        ((0,), "it is gone"),
        ((0, 1, 2), "it is gone"),
        ((2,), "rank 2: it is gone"),
        ((1, 2), "ranks 1 and 2: it is gone"),
    ],
)
def test_rank_0_tells_for_all(monkeypatch: pytest.MonkeyPatch, ranks: tuple[int, ...], message: str) -> None:
    first, *others = as_team(monkeypatch, 3, fails(*ranks, error=lambda rank: DataError("it is gone")))
    assert type(first) is DataError
    assert str(first) == message
    assert [(type(other), other.code) for other in others] == [(OthersTell, DataError.exit_code)] * 2


def test_errors_keep_kind_and_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = as_team(monkeypatch, 2, fails(1, error=lambda rank: InterruptedRun("stopped", 75)))
    assert (type(first), first.exit_code, second.code) == (InterruptedRun, 75, 75)
    # Of several, one is told.
    kinds = {0: ConfigError("a"), 1: DataError("b")}
    first, second = as_team(monkeypatch, 2, fails(0, 1, error=lambda rank: kinds[rank]))
    assert (type(first), str(first), second.code) == (ConfigError, "a", ConfigError.exit_code)


def test_alone_fails_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def decide(team: Team) -> Any:
        def action() -> None:
            raise ConfigError("no room")

        return team.alone(action)

    first, second = as_team(monkeypatch, 2, decide)
    assert (type(first), str(first)) == (ConfigError, "no room")
    assert second.code == ConfigError.exit_code


def test_one_process_is_plain_calls() -> None:
    team = Team(Ranks(), CPU, 1.0)
    error = OSError("as it is")

    def action() -> None:
        raise error

    assert (team.gather(3), team.together(lambda: 4), team.alone(lambda: 5)) == ([3], 4, 5)
    with pytest.raises(OSError, match="as it is") as caught:
        team.together(action)
    assert caught.value is error
    assert team.leads
    team.leave()


def test_nobody_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # to be as before afterwards
    with pytest.raises(JepaError, match=r"rank 1 of 2 on .* did not meet the others at 127.0.0.1:1 \("):
        Team(Ranks(1, 2, 1, 2, "torchrun", "127.0.0.1", 1), CPU, 1.0)
    assert not distributed.is_initialized()


@pytest.mark.parametrize(
    ("message", "lost"),
    [
        ("[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:12", True),
        ("Timed out waiting 5000ms for recv operation to complete", True),
        ("NCCL communicator was aborted on rank 1.", True),
        ("The size of tensor a (3) must match the size of tensor b (4)", False),
    ],
)
def test_what_torch_says_of_a_lost_process(message: str, lost: bool) -> None:
    assert has_lost_another(RuntimeError(message)) == lost


@pytest.mark.parametrize(
    ("ranks", "text"),
    [
        ([3], "rank 3"),
        ([0, 3], "ranks 0 and 3"),
        ([0, 3, 7, 8, 9], "ranks 0, 3, 7, 8 and 9"),
        (list(range(64)), "ranks 0, 1, 2 and 61 more"),
    ],
)
def test_ranks_text(ranks: list[int], text: str) -> None:
    assert ranks_text(ranks) == text
