"""Parts of shards: every sample once, in order, and a crash or a hang costs one sample."""

import ctypes
import os
from collections.abc import Callable

import pytest

from jepa.data.parts import PART, Part, Parts


def look(part: Part) -> list[str]:
    """Dies like a decoder does, once it comes to the third sample of the first shard."""
    if part.shard == 0 and part.first <= 2 < part.end:
        os._exit(139)
    return [f"{part.shard}/{number}" for number in range(part.first, part.end)]


def hang(part: Part) -> list[str]:
    """Never comes back from there, and holds Python's lock meanwhile."""
    if part.shard == 0 and part.first <= 2 < part.end:
        ctypes.PyDLL(None).pause()
    return look(part)


def lost(shard: int, number: int, reason: str) -> list[str]:
    return [f"{shard}/{number}: {reason}"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "reason"),
    [(look, "the decoder crashed on it"), (hang, "the decoder did not come back within 1 s")],
)
def test_a_sample_that_its_process_is_lost_to_costs_only_itself(make: Callable[[Part], list[str]], reason: str) -> None:
    results = list(Parts.of(make, lost, [4, 3, PART + 1]).run(workers=2, deadline=1))
    assert [len(part) for part, _ in results] == [4, 3, PART, 1]
    found = [one for _, some in results for one in some]
    assert found[:7] == ["0/0", "0/1", f"0/2: {reason}", "0/3", "1/0", "1/1", "1/2"]
    assert found[7:] == [f"2/{number}" for number in range(PART + 1)]


def test_parts_cover_every_sample_once_in_order() -> None:
    parts = Parts.of(look, lost, [PART + 1, 0, 2 * PART])
    covered = [(part.shard, i) for part in map(parts.part, range(len(parts))) for i in range(part.first, part.end)]
    assert covered == [(0, i) for i in range(PART + 1)] + [(2, i) for i in range(2 * PART)]
    assert len(Parts.of(look, lost, [])) == 0
