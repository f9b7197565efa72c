import re
from xml.etree import ElementTree

import pytest

from jepa.viz.intervals import WIDTH, interval_bar


def test_positions_are_proportional() -> None:
    bar = interval_bar(0.5, 0.25, 0.75, 0.0)
    ElementTree.fromstring(bar)
    assert float(re.findall(r'cx="([\d.]+)"', bar)[0]) == WIDTH / 2
    low, high = (float(value) for value in re.findall(r'M([\d.]+) 6H([\d.]+)"', bar)[-1])
    assert low + high == WIDTH
    assert high - low == pytest.approx((WIDTH - 8) / 2)


def test_chance_is_a_tick_if_it_is_known() -> None:
    assert interval_bar(0.5, 0.4, 0.6).count("<path") == interval_bar(0.5, 0.4, 0.6, 0.1).count("<path") - 1
