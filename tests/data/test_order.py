import math
import pickle
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import jepa.data.order as orders
from jepa.data.order import Order, permute, permute_all
from jepa.rng import derive

sizes = st.integers(1, 300)
seeds = st.integers(0, 2**63)


def epoch_of(order: Order, epoch: int) -> list[int]:
    return [order.sample(epoch * order.size + place)[1] for place in range(order.size)]


@given(sizes, seeds, st.integers(0, 10**6))
def test_every_epoch_visits_every_sample_once(size: int, seed: int, epoch: int) -> None:
    assert sorted(epoch_of(Order(size, seed), epoch)) == list(range(size))


@given(st.integers(1, 10**12), seeds, st.integers(0, 10**15))
def test_position_tells_epoch_and_a_sample_inside_the_source(size: int, seed: int, n: int) -> None:
    epoch, index = Order(size, seed).sample(n)
    assert epoch == n // size
    assert 0 <= index < size
    assert Order(size, seed).sample(n) == (epoch, index)


@given(st.integers(50, 300), seeds)
def test_epochs_and_seeds_differ(size: int, seed: int) -> None:
    orders = [epoch_of(Order(size, seed), 0), epoch_of(Order(size, seed), 1), epoch_of(Order(size, seed + 1), 0)]
    assert len({tuple(order) for order in orders}) == 3
    assert tuple(range(size)) not in {tuple(order) for order in orders}


def chi_squared(counts: Counter[int], cells: int) -> float:
    """Deviation from equal counts, in standard deviations of a chi-squared law with cells - 1 degrees of freedom."""
    expected = counts.total() / cells
    statistic = sum((counts[cell] - expected) ** 2 / expected for cell in range(cells))
    return (statistic - (cells - 1)) / math.sqrt(2 * (cells - 1))


@pytest.mark.parametrize("size", [5, 12, 37])
def test_places_are_uniform_over_epochs(size: int) -> None:
    epochs = [epoch_of(Order(size, seed=3), epoch) for epoch in range(1500)]
    for place in (0, size // 2, size - 1):
        assert chi_squared(Counter(epoch[place] for epoch in epochs), size) < 5
    # Neighbours too: what follows a sample is any other sample, equally often.
    gaps = Counter((epoch[1] - epoch[0]) % size - 1 for epoch in epochs)
    assert chi_squared(gaps, size - 1) < 5


def test_all_orders_of_three_samples_occur() -> None:
    counts = Counter(tuple(epoch_of(Order(3, seed=0), epoch)) for epoch in range(1200))
    assert len(counts) == 6
    assert min(counts.values()) > 140


def test_refuses_what_is_no_position() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        Order(0, 0)
    with pytest.raises(ValueError, match="counts from 0"):
        Order(3, 0).sample(-1)


# --- windows of shards ---------------------------------------------------------------------------------

shards = st.lists(st.integers(1, 30), min_size=1, max_size=40).map(tuple)


@given(st.integers(1, 5000), seeds)
def test_a_permutation_at_once_is_that_of_every_place(size: int, seed: int) -> None:
    keys = tuple(derive(seed, number, "test") for number in range(8))
    assert permute_all(size, keys).tolist() == [permute(place, size, keys) for place in range(size)]


@given(shards, seeds, st.integers(0, 10**6), st.integers(0, 50))
def test_every_epoch_in_windows_visits_every_sample_once(
    runs: tuple[int, ...], seed: int, epoch: int, window: int
) -> None:
    assert sorted(epoch_of(Order(sum(runs), seed, runs, window), epoch)) == list(range(sum(runs)))


@given(shards, seeds, st.integers(0, 1000), st.integers(1, 50))
def test_a_window_draws_from_its_shards_alone(runs: tuple[int, ...], seed: int, epoch: int, window: int) -> None:
    order = Order(sum(runs), seed, runs, window)
    shard_of = [shard for shard, count in enumerate(runs) for _ in range(count)]
    places = [shard_of[index] for index in epoch_of(order, epoch)]
    if window >= len(runs):
        return
    # The epoch is a row of stretches; each holds all samples of `window` shards (the last one, of those that are left).
    lengths, begin = [], 0
    while begin < len(places):
        group, end = set[int](), begin
        while end < len(places) and (len(group) < window or sum(runs[shard] for shard in group) > end - begin):
            group.add(places[end])
            end += 1
        assert sum(runs[shard] for shard in group) == end - begin
        lengths.append(len(group))
        begin = end
    assert set(lengths[:-1]) <= {window}
    assert sum(lengths) == len(runs)


@given(shards, seeds, st.integers(0, 10**6), st.integers(0, 3))
def test_a_window_of_all_shards_is_the_permutation_of_all_samples(
    runs: tuple[int, ...], seed: int, n: int, more: int
) -> None:
    size = sum(runs)
    assert Order(size, seed, runs, len(runs) + more).sample(n) == Order(size, seed).sample(n)
    assert Order(size, seed, runs, 0).sample(n) == Order(size, seed).sample(n)


def test_the_order_of_released_runs_stays() -> None:
    # Written down from the permutation of all samples that came before windows of shards.
    order = Order(24, 7, (10, 10, 4), 64)
    assert [order.sample(n)[1] for n in (0, 1, 2, 23, 24, 25, 10**9)] == [11, 23, 18, 5, 8, 10, 17]


def test_epochs_and_windows_put_other_shards_together() -> None:
    order = Order(100, 3, (10,) * 10, 2)
    pairs = [frozenset(index // 10 for index in epoch_of(order, epoch)[:20]) for epoch in range(30)]
    assert all(len(pair) == 2 for pair in pairs)
    assert len(set(pairs)) > 15


def test_a_travelling_order_is_the_same_and_carries_no_epochs() -> None:
    order = Order(100, 3, (10,) * 10, 2)
    expected = epoch_of(order, 0)
    assert len(pickle.dumps(order)) == len(pickle.dumps(Order(100, 3, (10,) * 10, 2)))
    assert epoch_of(pickle.loads(pickle.dumps(order)), 0) == expected


@pytest.mark.parametrize("n", [0, 9_000_000, 10**12])
def test_a_start_costs_the_same_everywhere(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Counter[str]()
    for name in ("permute", "permute_all", "_feistel", "derive"):
        monkeypatch.setattr(orders, name, counted(getattr(orders, name), name, calls))
    orders._round_keys.cache_clear()
    order = Order(10**7, 0, (1000,) * 10_000, 64)
    order.sample(n)
    # Keys of the shards and of a window; the shards in one go; one place. Cycle walking adds a pass now and then.
    assert (calls["permute"], calls["permute_all"], calls["derive"]) == (1, 1, 2 * orders.ROUNDS)
    assert calls["_feistel"] <= 8


def counted(function: Any, name: str, calls: Counter[str]) -> Any:
    def call(*arguments: Any) -> Any:
        calls[name] += 1
        return function(*arguments)

    return call


def test_spares_are_any_samples_and_a_pure_function() -> None:
    order = Order(6, 5)
    drawn = Counter(order.spare(n, attempt) for n in range(600) for attempt in range(2))
    assert chi_squared(drawn, 6) < 5
    assert [order.spare(3, a) for a in range(20)] == [Order(6, 5).spare(3, a) for a in range(20)]
    assert len({order.spare(3, a) for a in range(40)}) == 6, "attempts differ, so that a good sample is found"


def test_refuses_runs_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="runs of 3 samples in an order over 4"):
        Order(4, 0, (1, 2))
    with pytest.raises(ValueError, match="a window of shards is 0"):
        Order(4, 0, (1, 3), -1)
