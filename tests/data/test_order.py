import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jepa.data.order import Order

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
