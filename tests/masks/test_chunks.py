"""Large batches are drawn in chunks of 64 clips, and a process draws those that it needs."""

import pytest
import torch

from jepa.masks import build
from jepa.masks.build import CHUNK, MaskSampler, MasksConfig
from jepa.masks.config import SHORT_RANGE, MaskConfig
from jepa.masks.multiblock import Multiblock
from jepa.rng import generator
from jepa.tokens import Mask, TokenGrid

GRID = TokenGrid(2, 4, 4)
KINDS = (SHORT_RANGE, MaskConfig(kind="tube"), MaskConfig(kind="causal"), MaskConfig(kind="ijepa"))
BATCH = 2 * CHUNK + 22


def same(one: Mask, other: Mask) -> bool:
    return torch.equal(one.context, other.context) and torch.equal(one.target, other.target)


def part(mask: Mask, rows: slice) -> Mask:
    return Mask(mask.context[rows], mask.target[rows], mask.blocks)


def test_a_batch_of_one_chunk_is_one_draw_of_the_first_stream() -> None:
    """What runs of small batches saw before there were chunks."""
    sampler = MaskSampler(MasksConfig(kinds=(SHORT_RANGE,)), GRID, seed=3)
    kind = sampler._kinds[0]
    assert isinstance(kind, Multiblock)
    for batch in (1, CHUNK):
        assert same(sampler(5, batch)[0], kind.draw(batch, generator(3, 5, "mask/0")))
    whole = sampler(5, BATCH)[0]
    assert same(part(whole, slice(CHUNK)), kind.draw(CHUNK, generator(3, 5, "mask/0")))
    assert same(part(whole, slice(2 * CHUNK, BATCH)), kind.draw(22, generator(3, 5, "mask/0/2")))


@pytest.mark.parametrize("collation", ["fixed", "official"])
@pytest.mark.parametrize(
    "rows", [(0, 30), (50, 70), (64, 128), (60, 150), (127, 129), (149, 150), (0, 150), (3, 147, 7)]
)
def test_rows_are_those_of_the_whole(rows: tuple[int, ...], collation: str) -> None:
    sampler = MaskSampler(MasksConfig(kinds=KINDS, collation=collation), GRID, seed=1)  # type: ignore[arg-type]
    wholes, parts = sampler(2, BATCH), sampler(2, BATCH, slice(*rows))
    assert len(parts) == len(KINDS)
    for whole, found in zip(wholes, parts, strict=True):
        assert found.blocks == whole.blocks
        assert same(found, part(whole, slice(*rows)))


def test_chunks_are_drawn_apart() -> None:
    (mask,) = MaskSampler(MasksConfig(kinds=(SHORT_RANGE,)), TokenGrid(4, 8, 8), seed=0)(0, 3 * CHUNK)
    chunks = mask.target.split(CHUNK)
    assert not torch.equal(chunks[0], chunks[1])
    assert not torch.equal(chunks[1], chunks[2])


@pytest.mark.parametrize(("rows", "drawn"), [((24, 48), [""]), ((60, 70), ["", "/1"]), ((128, 150), ["/2"])])
def test_only_the_chunks_that_rows_touch_are_drawn(
    rows: tuple[int, int], drawn: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = MaskSampler(MasksConfig(kinds=(SHORT_RANGE,)), GRID, seed=0)
    purposes = []

    def watched(seed: int, step: int, purpose: str) -> object:
        purposes.append(purpose)
        return generator(seed, step, purpose)

    monkeypatch.setattr(build, "generator", watched)
    sampler(0, BATCH, slice(*rows))
    assert purposes == [f"mask/0{end}" for end in drawn]
