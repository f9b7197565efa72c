"""What a run consumes, worked out without a decoder: the same for all ranks and restarts, in exact proportions."""

from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jepa.data.draws import Draw, Draws
from jepa.data.mixture import Mixture
from jepa.data.order import Order
from jepa.data.plan import Plan
from jepa.data.source import SampleInfo
from jepa.data.steps import Steps
from jepa.data.windows import WindowConfig, random_window
from jepa.errors import ConfigError
from jepa.rng import generator

WINDOW = WindowConfig(frames=4, stride=2)


@dataclass(frozen=True)
class Facts:
    """A data set that exists only on paper."""

    name: str
    runs: tuple[int, ...]
    fingerprint: str = field(default="0")

    def __len__(self) -> int:
        return sum(self.runs)

    def info(self, index: int) -> SampleInfo:
        return SampleInfo(f"{self.name}/{index}", 20 + index % 7, 8.0, 32, 32, {}, "")

    def read(self, index: int) -> bytes:
        raise AssertionError("nothing is read to know what comes")

    def place(self, index: int) -> str:
        return self.name

    def extra(self, index: int, name: str) -> bytes:
        raise KeyError(name)


def mixture(sizes: list[tuple[int, ...]], weights: list[int]) -> Mixture:
    sources = tuple(Facts(f"s{number}", runs) for number, runs in enumerate(sizes))
    return Mixture("mixture", sources, tuple(source.name for source in sources), tuple(weights))


def of(draw: Draw) -> tuple[int, int]:
    """Source and sample."""
    return draw.source, draw.index


class Bad(set[int]):
    """Samples that are left out, whatever the frames."""

    def leaves_out(self, index: int, window: tuple[int, ...]) -> bool:
        return index in self


def draws(mixed: Mixture, **options: Any) -> Draws:
    return Draws(mixed, WINDOW, **{"seed": 3, **options})


counts = st.lists(st.integers(1, 12), min_size=1, max_size=6).map(tuple)
mixtures = st.integers(1, 4).flatmap(
    lambda number: st.builds(
        mixture,
        st.lists(counts, min_size=number, max_size=number),
        st.lists(st.integers(1, 9), min_size=number, max_size=number),
    )
)


def consumed(plans: list[Plan], steps: range) -> list[tuple[int, bool, Draw]]:
    """The global sequence of a run of some ranks."""
    return [
        (step, part.images, draw) for step in steps for part in (plan(step) for plan in plans) for draw in part.draws
    ]


@given(
    mixtures,
    mixtures,
    st.integers(0, 4),
    st.integers(1, 3),
    st.lists(st.tuples(st.integers(0, 6), st.sampled_from([1, 2, 4])), max_size=4),
    st.sampled_from([Fraction(0), Fraction(1, 4), Fraction(1, 3), Fraction(9, 10)]),
    st.integers(0, 10**7),
)
def test_ranks_and_restarts_change_nothing(
    videos: Mixture,
    images: Mixture,
    shards: int,
    clips: int,
    restarts: list[tuple[int, int]],
    share: Fraction,
    begin: int,
) -> None:
    kinds = draws(videos, shards=shards, clips_per_video=clips), draws(images, shards=shards, seed=4)
    steps = Steps(4 * clips, 8, share)
    whole = consumed([Plan(steps, *kinds)], range(begin, begin + 24))
    found, step = [], begin
    for length, ranks in [*restarts, (24, 1)]:
        # A restart knows nothing but its step: everything is made anew.
        again = draws(videos, shards=shards, clips_per_video=clips), draws(images, shards=shards, seed=4)
        plans = [Plan(steps, *again, rank, ranks) for rank in range(ranks)]
        end = min(step + length, begin + 24)
        found += consumed(plans, range(step, end))
        step = end
    assert found == whole
    # Positions of either kind follow one another without a gap.
    for kind in (False, True):
        positions = [draw.position for _, image, draw in whole if image == kind]
        assert positions == list(range(positions[0], positions[0] + len(positions))) if positions else True


@given(counts, st.integers(0, 2**32), st.integers(0, 10**6))
def test_one_source_is_in_the_order_it_has_alone(runs: tuple[int, ...], seed: int, n: int) -> None:
    (source,) = mixture([runs], [1]).sources
    draw = draws(mixture([runs], [5]), seed=seed)(n)
    index = Order(len(source), seed).sample(n)[1]
    window = random_window(source.info(index), WINDOW, generator(seed, n, "window"))
    assert draw == Draw(n, 0, index, f"s0/{index}", window)


@given(mixtures, st.integers(0, 5))
def test_every_source_of_a_mixture_goes_through_its_epochs(mixed: Mixture, shards: int) -> None:
    found = draws(mixed, shards=shards)
    number = 3 * sum(mixed.weights) * max(map(len, mixed.sources))
    drawn: list[list[int]] = [[] for _ in mixed.sources]
    for n in range(min(number, 600)):
        source, index = of(found(n))
        drawn[source].append(index)
    for source, indices in zip(mixed.sources, drawn, strict=True):
        for begin in range(0, len(indices) - len(source) + 1, len(source)):
            assert sorted(indices[begin : begin + len(source)]) == list(range(len(source)))


def test_sources_of_one_size_come_in_different_orders() -> None:
    found = draws(mixture([(40,), (40,)], [1, 1]))
    indices: list[list[int]] = [[], []]
    for n in range(80):
        source, index = of(found(n))
        indices[source].append(index)
    assert indices[0] != indices[1]


@given(mixtures, st.integers(1, 5), st.integers(0, 1000))
def test_clips_of_a_video_are_neighbours_with_windows_of_their_own(mixed: Mixture, clips: int, video: int) -> None:
    found, single = draws(mixed, clips_per_video=clips), draws(mixed)
    positions = range(video * clips, (video + 1) * clips)
    assert {of(found(n)) for n in positions} == {of(single(video))}
    info = mixed.sources[of(found(video * clips))[0]].info(of(found(video * clips))[1])
    assert [found(n).window for n in positions] == [
        random_window(info, WINDOW, generator(3, n, "window")) for n in positions
    ]


@given(mixtures, st.sets(st.integers(0, 100)), st.integers(0, 200))
def test_a_bad_sample_is_replaced_by_the_first_good_spare(mixed: Mixture, bad: set[int], n: int) -> None:
    bad -= {0}  # one is good in every source
    quarantines: Any = [Bad(bad) for _ in mixed.sources]
    found, source, index = draws(mixed), *of(draws(mixed, bad=quarantines)(n))
    own, order = found.interleave.draw(n)[1], found.orders[source]
    tried = [order.sample(own)[1]]
    while tried[-1] in bad:
        tried.append(order.spare(own, len(tried) - 1))
    assert source == of(found(n))[0]
    assert index == tried[-1]


# --- steps of images and of videos ---------------------------------------------------------------------

shares = st.fractions(min_value=0, max_value=1, max_denominator=50).filter(lambda share: share < 1)


@given(shares, st.integers(1, 300))
def test_the_share_of_images_is_exact_in_every_prefix(share: Fraction, count: int) -> None:
    steps = Steps(4, 2, share)
    seen = Counter[bool]()
    for step in range(count):
        assert steps.consumed(step) == 4 * seen[False] + 2 * seen[True]
        image, own = steps.at(step)
        assert own == seen[image]
        seen[image] += 1
        assert 0 <= (step + 1) * share - seen[True] < 1


@given(shares, st.integers(1, 9), st.integers(1, 9), st.integers(0, 10**6))
def test_the_step_of_a_clip(share: Fraction, videos: int, images: int, number: int) -> None:
    steps = Steps(videos, images, share)
    step = steps.of_clip(number)
    assert steps.consumed(step) <= number < steps.consumed(step + 1)


def test_without_images_a_step_is_its_own_number() -> None:
    steps = Steps(4)
    assert [steps.at(step) for step in (0, 1, 77)] == [(False, 0), (False, 1), (False, 77)]
    assert (steps.consumed(7), steps.of_clip(27), steps.of_clip(28)) == (28, 6, 7)


def test_plans_that_cannot_work() -> None:
    videos = draws(mixture([(100,)], [1]), clips_per_video=3)
    with pytest.raises(ConfigError, match=r"loader.batch_size 6 does not divide among 4 processes: use a multiple"):
        Plan(Steps(6), videos, None, 0, 4)
    with pytest.raises(ConfigError, match=r"^loader.batch_size 8 gives each process 4 clips, not whole videos of"):
        Plan(Steps(8), videos, None, 0, 2)
    with pytest.raises(ConfigError, match=r"images.batch_size 3 does not divide among 2 processes"):
        Plan(Steps(6, 3, Fraction(1, 2)), videos, draws(mixture([(9,)], [1])), 0, 2)
    with pytest.raises(ConfigError, match="rank 2 of 2 processes: ranks count from 0"):
        Plan(Steps(6), videos, None, 2, 2)
