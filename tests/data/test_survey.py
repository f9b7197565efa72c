from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jepa.data.source import SampleInfo, open_source
from jepa.data.survey import BINS, MOST_VALUES, Bar, duration, of_numbers, of_values, survey


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200))
def test_a_histogram_of_numbers_counts_every_one_in_few_bars(numbers: list[float]) -> None:
    bars = of_numbers(numbers)
    assert sum(bar.count for bar in bars) == len(numbers)
    assert len(bars) <= BINS


def test_few_numbers_have_a_bar_each_and_many_share_bins_of_equal_width() -> None:
    assert of_numbers([30, 25, 30, 29.97]) == (Bar("25", 1), Bar("29.97", 1), Bar("30", 2))
    bars = of_numbers([*range(100)])
    assert [bar.count for bar in bars] == [10] * 10
    assert (bars[0].name, bars[-1].name) == ("0 to 9.9", "89.1 to 99")
    assert of_numbers([]) == ()


@given(st.lists(st.integers(0, 60), max_size=300))
def test_a_histogram_of_values_counts_every_one_and_the_most_frequent_first(values: list[int]) -> None:
    bars = of_values(values)
    assert sum(bar.count for bar in bars) == len(values)
    assert len(bars) <= MOST_VALUES
    counts = [bar.count for bar in bars[: MOST_VALUES - 1]]
    assert counts == sorted(Counter(values).values(), reverse=True)[: len(counts)]


def test_a_video_of_unknown_rate_has_no_length() -> None:
    assert duration(SampleInfo("a", 9, 0.0, 2, 2, {}, "")) == 0.0
    assert duration(SampleInfo("a", 9, 4.5, 2, 2, {}, "")) == 2.0


def test_a_survey_of_a_data_set(tiny_shards: object) -> None:
    source = open_source(str(tiny_shards))
    facts = survey(source, 1000)
    infos = [source.info(number) for number in range(len(source))]
    assert (facts.samples, facts.surveyed, facts.frames, facts.seconds) == (24, 24, 384, 48.0)
    assert facts.size == (Bar("40x40", 24),)
    assert {bar.name: bar.count for bar in facts.labels["shape"]} == Counter(info.labels["shape"] for info in infos)
    assert facts.unlabelled == 0
    few = survey(source, 5)
    assert (few.samples, few.surveyed, few.frames) == (24, 5, 80)
    assert np.sum([bar.count for bar in few.labels["motion"]]) == 5
