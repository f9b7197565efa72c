"""What holds for every kind of mask, with every option, on every grid, down to a pair of tokens."""

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa.errors import ConfigError
from jepa.masks import ijepa, multiblock
from jepa.masks.build import MaskSampler, MasksConfig
from jepa.masks.config import LONG_RANGE, SHORT_RANGE, MaskConfig
from jepa.tokens import Mask, TokenGrid

EARLY = MaskConfig(blocks=2, spatial=(0.3, 0.6), context_time=(0.3, 0.6))
KINDS: dict[str, MaskConfig] = {
    "short": SHORT_RANGE,
    "long": LONG_RANGE,
    "ranges": MaskConfig(blocks=3, spatial=(0.1, 0.8), temporal=(0.2, 0.9), aspect=(0.3, 3.0)),
    "early": EARLY,
    "few": MaskConfig(blocks=2, max_keep=3),
    "rest predicted": MaskConfig(blocks=2, max_keep=3, complement="target"),
    "rest seen": MaskConfig(spatial=(0.2, 0.3), complement="context"),
    "inverse": MaskConfig(blocks=3, temporal=(0.5, 1.0), inverse=True),
    "inverse with all": MaskConfig(context_time=(0.5, 0.5), max_keep=9, complement="target", inverse=True),
    "tube": MaskConfig(kind="tube"),
    "half a tube": MaskConfig(kind="tube", ratio=0.5),
    "causal": MaskConfig(kind="causal"),
    "causal range": MaskConfig(kind="causal", context_time=(0.01, 1.0)),
    "causal gap": MaskConfig(kind="causal", context_time=(0.2, 0.4), target_time=(0.7, 0.9)),
    "ijepa": MaskConfig(kind="ijepa"),
    "large ijepa": MaskConfig(kind="ijepa", blocks=7, spatial=(0.4, 1.0), context_block=(0.1, 0.3), min_keep=500),
    "small ijepa": MaskConfig(kind="ijepa", blocks=1, spatial=(0.01, 0.1), min_keep=0),
}
COLLATIONS = ("fixed", "official")
SMALL = [TokenGrid(*shape) for shape in product(range(1, 4), range(1, 7), range(1, 7)) if shape != (1, 1, 1)]

kinds, collations, grids = st.sampled_from(sorted(KINDS)), st.sampled_from(COLLATIONS), st.sampled_from(SMALL)


def sampler(name: str, collation: str, grid: TokenGrid, seed: int = 3) -> MaskSampler:
    return MaskSampler(MasksConfig(kinds=(KINDS[name],), collation=collation), grid, seed)  # type: ignore[arg-type]


def has_such_masks(config: MaskConfig, grid: TokenGrid) -> bool:
    if config.kind == "causal":
        return grid.steps > 1
    return config.kind == "multiblock" or grid.rows * grid.columns > 1


def assert_mask(mask: Mask, config: MaskConfig, grid: TokenGrid, batch: int) -> None:
    """Rectangular, inside the grid, sorted, without repetition, nothing both seen and predicted."""
    assert mask.blocks == ((config.blocks or 4) if config.kind == "ijepa" else 1)
    assert mask.context.dtype == mask.target.dtype == torch.int64
    assert mask.context.shape[0] == mask.target.shape[0] == batch
    assert mask.context.shape[1] >= 1
    assert mask.target.shape[1] >= mask.blocks
    for context, target in zip(mask.context.tolist(), mask.target.tolist(), strict=True):
        size = len(target) // mask.blocks
        parts = [context, *(target[start : start + size] for start in range(0, len(target), size))]
        assert all(part == sorted(set(part)) for part in parts)
        assert not set(context) & set(target)
        assert min(context + target) >= 0
        assert max(context + target) < grid.count


@settings(max_examples=15)  # every grid with every kind: the slow test below
@given(name=kinds, collation=collations, grid=grids, batch=st.integers(1, 5), step=st.integers(0, 10**6))
def test_masks_are_masks(name: str, collation: str, grid: TokenGrid, batch: int, step: int) -> None:
    if not has_such_masks(KINDS[name], grid):
        with pytest.raises(ConfigError, match="at least 2"):
            sampler(name, collation, grid)
        return
    for mask in sampler(name, collation, grid)(step, batch):
        assert_mask(mask, KINDS[name], grid, batch)


@pytest.fixture
def few_draws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Counts of `fixed` that are estimated from few draws: where it does not matter how many tokens are kept."""
    caches = multiblock._mean_cover, ijepa._usual_context
    for module, cache in zip((multiblock, ijepa), caches, strict=True):
        monkeypatch.setattr(module, "_DRAWS", 4)
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.mark.slow
@pytest.mark.usefixtures("few_draws")
@pytest.mark.parametrize("collation", COLLATIONS)
@pytest.mark.parametrize("name", KINDS)
def test_every_grid_up_to_3_by_6_by_6_ends(name: str, collation: str) -> None:
    for grid in SMALL:
        if has_such_masks(KINDS[name], grid):
            draw = sampler(name, collation, grid)
            for step in range(3):
                assert_mask(draw(step, 8)[0], KINDS[name], grid, 8)


class Constant(np.random.Generator):
    """The worst luck: every block of every try lies in the same place, at one end of the grid."""

    def __init__(self, high: bool) -> None:
        super().__init__(np.random.PCG64(0))
        self.high = high
        self.calls = 0

    def _fill(self, value: Any, size: Any) -> Any:
        self.calls += 1
        assert self.calls < 1000, "draws without end"
        return value if size is None else np.full(size, value)

    def integers(self, low: int, high: int | None = None, size: Any = None) -> Any:  # type: ignore[override]
        low, high = (0, low) if high is None else (low, high)
        return self._fill(high - 1 if self.high else low, size)

    def random(self, size: Any = None) -> Any:  # type: ignore[override]
        return self._fill(1 - 2**-53 if self.high else 0.0, size)

    def uniform(self, low: float, high: float) -> float:  # type: ignore[override]
        return high if self.high else low


@pytest.mark.usefixtures("few_draws")
@pytest.mark.parametrize("high", [False, True])
@pytest.mark.parametrize("name", KINDS)
def test_no_luck_is_bad_enough_to_draw_for_ever(name: str, high: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for shape, collation in product([(1, 1, 2), (1, 3, 3), (2, 3, 5)], COLLATIONS):
        grid = TokenGrid(*shape)
        if has_such_masks(KINDS[name], grid):
            draw = sampler(name, collation, grid)
            with monkeypatch.context() as patch:
                patch.setattr("jepa.masks.build.generator", lambda *_: Constant(high))
                assert_mask(draw(0, 4)[0], KINDS[name], grid, 4)


@pytest.mark.parametrize("name", KINDS)
def test_fixed_shapes_depend_on_neither_step_nor_batch(name: str) -> None:
    draw = sampler(name, "fixed", TokenGrid(3, 6, 6))
    masks = [draw(step, 1 + step % 7)[0] for step in range(30)]
    assert len({(mask.context.shape[1], mask.target.shape[1]) for mask in masks}) == 1


@pytest.mark.parametrize("collation", COLLATIONS)
@pytest.mark.parametrize("name", KINDS)
def test_masks_are_a_function_of_seed_and_step(name: str, collation: str) -> None:
    grid = TokenGrid(3, 6, 6)
    drawn, again, other = (
        [sampler(name, collation, grid, seed)(step, 6)[0] for step in range(4)] for seed in (3, 3, 4)
    )
    assert all(map(same, drawn, again))
    if not name.startswith("causal"):  # of which there are few
        assert not all(map(same, drawn, other))
        assert not all(same(drawn[0], mask) for mask in drawn)


def same(first: Mask, second: Mask) -> bool:
    return torch.equal(first.context, second.context) and torch.equal(first.target, second.target)


@pytest.mark.parametrize("collation", COLLATIONS)
@pytest.mark.parametrize("name", KINDS)
def test_rows_of_a_batch_are_those_of_the_whole(name: str, collation: str) -> None:
    draw = sampler(name, collation, TokenGrid(2, 4, 4))
    for step, rows in enumerate((slice(0, 5), slice(5, 6), slice(7, 12), slice(3, 12, 3))):
        (whole,), (part,) = draw(step, 12), draw(step, 12, rows)
        assert torch.equal(part.context, whole.context[rows])
        assert torch.equal(part.target, whole.target[rows])
        assert part.blocks == whole.blocks


def test_kinds_can_be_mixed() -> None:
    config = MasksConfig(kinds=(SHORT_RANGE, KINDS["tube"], KINDS["causal"], KINDS["ijepa"]))
    masks = MaskSampler(config, TokenGrid(4, 6, 6), 0)(0, 3)
    assert [mask.blocks for mask in masks] == [1, 1, 1, 4]


@pytest.mark.parametrize(
    ("name", "sure", "tokens"),
    [
        # 25 of the 256 patches of a frame
        ("tube", ("context_share", 25 / 256), lambda mask: mask.context),
        ("tube", ("target_share", 231 / 256), lambda mask: mask.target),
        # the first step of 4 at least is seen, and the last at least is predicted
        ("causal range", ("context_share", 1 / 4), lambda mask: mask.context),
        ("causal range", ("target_share", 1 / 4), lambda mask: mask.target),
        # 256 less the largest block, 9 rows of 6; and four times the smallest, 5 rows of 7
        ("ijepa", ("context_share", 202 / 256), lambda mask: mask.context),
        ("ijepa", ("target_share", 140 / 256), lambda mask: mask.target),
    ],
)
def test_shares_of_these_kinds_end_where_a_token_would_have_to_change_sides(
    name: str, sure: tuple[str, float], tokens: Callable[[Mask], torch.Tensor]
) -> None:
    (setting, most), grid = sure, TokenGrid(4, 16, 16)
    for share in (most, 0.05):
        config = MasksConfig(kinds=(KINDS[name],), **{setting: share})  # type: ignore[arg-type]
        (mask,) = MaskSampler(config, grid, 0)(0, 3)
        assert tokens(mask).shape[1] == pytest.approx(share * grid.count, abs=2)
        assert_mask(mask, KINDS[name], grid, 3)
    with pytest.raises(ConfigError, match=f"masks.{setting} is .*lower it"):
        MaskSampler(MasksConfig(kinds=(KINDS[name],), **{setting: most + 0.01}), grid, 0)  # type: ignore[arg-type]
