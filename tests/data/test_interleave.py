from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jepa.data.interleave import Interleave, exact, whole

weights = st.lists(st.integers(0, 50), min_size=1, max_size=9).filter(any).map(tuple)


@given(weights, st.integers(1, 400))
def test_every_prefix_has_the_proportions_up_to_less_than_one_draw_per_sequence(
    weights: tuple[int, ...], count: int
) -> None:
    interleave, drawn = Interleave(weights), [0] * len(weights)
    for n in range(count):
        sequence, own = interleave.draw(n)
        assert own == drawn[sequence], "each sequence is drawn in its own order, none of it left out"
        drawn[sequence] += 1
        for number, weight in zip(drawn, weights, strict=True):
            assert abs(number - Fraction(weight * (n + 1), sum(weights))) < max(1, len(weights) - 1)


@given(weights, st.integers(0, 10**9))
def test_a_period_has_exactly_the_weights(weights: tuple[int, ...], period: int) -> None:
    interleave, total = Interleave(weights), sum(weights)
    draws = [interleave.draw(period * total + n) for n in range(total)]
    for sequence, weight in enumerate(weights):
        own = [number for which, number in draws if which == sequence]
        assert own == list(range(period * weight, (period + 1) * weight))


@given(st.integers(0, 10**18))
def test_one_sequence_is_itself(n: int) -> None:
    assert Interleave((3,)).draw(n) == (0, n)


def test_two_halves_alternate() -> None:
    assert [Interleave((1, 1)).draw(n) for n in range(4)] == [(1, 0), (0, 0), (1, 1), (0, 1)]


@pytest.mark.parametrize("weights", [(), (0, 0), (2, -1)])
def test_refuses_weights_that_draw_nothing(weights: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="whole numbers from 0"):
        Interleave(weights)


@given(st.lists(st.fractions(min_value=Fraction(1, 1000), max_value=1000), min_size=1, max_size=6))
def test_whole_numbers_keep_the_proportions(shares: list[Fraction]) -> None:
    numbers = whole(shares)
    assert all(a * shares[0] == numbers[0] * share for a, share in zip(numbers, shares, strict=True))


def test_decimals_mean_what_they_say() -> None:
    assert whole([exact(0.335), exact(0.1), exact(0.565)]) == (67, 20, 113)
    assert exact(1e-3) == Fraction(1, 1000)
