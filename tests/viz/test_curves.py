import re
from xml.etree import ElementTree

import numpy as np
import pytest

from jepa.viz.curves import Series, curve, number, short_count, smooth, thin
from jepa.viz.style import ROLES


def series(label: str, count: int = 500, seed: int = 0) -> Series:
    steps = np.arange(1, count + 1) * 10
    return Series(label, steps, np.exp(-steps / 2000) + np.random.default_rng(seed).normal(0, 0.01, count))


def test_thinning_keeps_the_mean_and_drops_what_is_not_finite() -> None:
    values = np.random.default_rng(0).normal(size=1200)
    steps, thinned = thin(np.arange(1200), values, points=240)
    assert len(steps) == 240
    assert thinned.mean() == pytest.approx(values.mean())
    values[:3] = np.nan, np.inf, -np.inf
    assert thin(np.arange(5), values[:5])[0].tolist() == [3, 4]


def test_smoothing_agrees_with_a_loop() -> None:
    values = np.random.default_rng(0).normal(size=30)
    for index, smoothed in enumerate(smooth(values, 7)):
        reach = min(3, index, 29 - index)
        assert smoothed == pytest.approx(values[index - reach : index + reach + 1].mean())


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (3.14159, "3.14"), (12345.6, "12346"), (0.000025, "2.5e-5"), (1e-7, "1e-7"), (2.5e9, "2.5e+09")],
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text


def test_counts_are_short() -> None:
    assert [short_count(value) for value in (0, 500, 1500, 300_000, 2e6)] == ["0", "500", "1.5k", "300k", "2M"]


def test_a_curve_names_its_lines_and_follows_the_page() -> None:
    drawing = curve([series("first <run>"), series("second", seed=1)], name="c0", title="loss")
    assert drawing is not None
    texts = " ".join(element.text for element in ElementTree.fromstring(drawing).iter() if element.text)
    assert "first <run>" in texts
    assert "second" in texts
    assert "step" in texts
    assert "var(--accent" in drawing
    assert not [role for role in ROLES if role.stand_in in drawing]
    assert "<style" not in drawing
    ids = re.findall(r'\bid="([^"]*)"', drawing)
    assert len(ids) == len(set(ids))
    assert all(name.startswith("c0-") for name in ids)


def test_equal_data_give_equal_drawings() -> None:
    assert curve([series("a")], name="c", title="t") == curve([series("a")], name="c", title="t")


def test_one_point_is_drawn_and_nothing_finite_is_not() -> None:
    assert curve([Series("a", np.array([5]), np.array([1.0]))], name="c", title="t") is not None
    assert curve([Series("a", np.array([5, 6]), np.array([np.nan, np.inf]))], name="c", title="t") is None


def test_ticks_of_a_nearly_constant_quantity_differ() -> None:
    steps = np.arange(20)
    drawing = curve([Series("a", steps, 0.998 + steps * 1e-6)], name="c", title="t")
    assert drawing is not None
    texts = [element.text for element in ElementTree.fromstring(drawing).iter() if element.text]
    ticks = [text for text in texts if text.startswith("0.99800") or text.startswith("0.99801")]
    assert len(ticks) >= 3
    assert len(set(ticks)) == len(ticks)
