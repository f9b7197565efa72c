"""Parts of shards: every sample once, in order, and a crash costs one sample."""

import os

import pytest

from jepa.data.parts import PART, Part, Parts


def look(part: Part) -> list[str]:
    """Dies like a decoder does, once it comes to the third sample of the first shard."""
    if part.shard == 0 and part.first <= 2 < part.end:
        os._exit(139)
    return [f"{part.shard}/{number}" for number in range(part.first, part.end)]


def crashed(shard: int, number: int) -> list[str]:
    return [f"{shard}/{number} crashed"]


@pytest.mark.slow
def test_a_sample_that_kills_its_process_costs_only_itself() -> None:
    results = list(Parts.of(look, crashed, [4, 3, PART + 1]).run(workers=2))
    assert [len(part) for part, _ in results] == [4, 3, PART, 1]
    found = [one for _, some in results for one in some]
    assert found[:7] == ["0/0", "0/1", "0/2 crashed", "0/3", "1/0", "1/1", "1/2"]
    assert found[7:] == [f"2/{number}" for number in range(PART + 1)]


def test_parts_cover_every_sample_once_in_order() -> None:
    parts = Parts.of(look, crashed, [PART + 1, 0, 2 * PART])
    covered = [(part.shard, i) for part in map(parts.part, range(len(parts))) for i in range(part.first, part.end)]
    assert covered == [(0, i) for i in range(PART + 1)] + [(2, i) for i in range(2 * PART)]
    assert len(Parts.of(look, crashed, [])) == 0
