"""Curves of a training run: one small drawing per quantity, every line labelled where it ends.

A run logs up to millions of steps; a drawing 340 pixels wide can show a few hundred points. Long series are averaged
in equal bins of steps, drawn faintly, and their moving average is drawn over them, so both the noise and the trend
remain visible. The number at the end of a line is the mean of the last bins, not the last noisy value.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from jepa.viz.style import TEXT_PX, new_figure, series_role, style, to_svg

WIDTH, HEIGHT = 340.0, 196.0
_POINTS = 240
_SMOOTH_FROM = 60
_LABEL = 16


@dataclass(frozen=True)
class Series:
    """One line of a drawing."""

    label: str
    """Written at the end of the line when there are several."""
    steps: np.ndarray
    """(S,) optimizer steps, rising."""
    values: np.ndarray
    """(S,) values; those that are not finite are left out."""


def number(value: float, digits: int = 3) -> str:
    """A few significant digits, the way a reader writes them: 0.0421, 3.14, 1250, 2.5e-5."""
    if value == 0:
        return "0"
    if 1000 <= abs(value) < 1e6:
        return f"{value:.0f}"
    if abs(value) < 1e-3:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.{digits}g}"


def _digits(ticks: np.ndarray) -> int:
    """Significant digits that tell neighbouring ticks apart."""
    for digits in range(3, 9):
        if len({number(float(tick), digits) for tick in ticks}) == len(ticks):
            return digits
    return 9


def short_count(value: float) -> str:
    """A step count for an axis: 500, 1.5k, 300k, 2M."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:g}{unit}"
    return f"{value:g}"


def thin(steps: np.ndarray, values: np.ndarray, points: int = _POINTS) -> tuple[np.ndarray, np.ndarray]:
    """At most `points` (step, value) pairs: means over equal bins of the finite values."""
    finite = np.isfinite(values) & np.isfinite(steps)
    steps, values = steps[finite].astype(float), values[finite].astype(float)
    if len(steps) <= points:
        return steps, values
    bins = [part for part in np.array_split(np.arange(len(steps)), points) if len(part)]
    return np.array([steps[part].mean() for part in bins]), np.array([values[part].mean() for part in bins])


def smooth(values: np.ndarray, width: int) -> np.ndarray:
    """Centred moving average over `width` points; shorter, still centred, windows at the ends."""
    half = width // 2
    total = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    reach = np.minimum(np.minimum(index, len(values) - 1 - index), half)
    mean: np.ndarray = (total[index + reach + 1] - total[index - reach]) / (2 * reach + 1)
    return mean


def _spread(heights: list[float], gap: float) -> list[float]:
    """Label heights moved apart to at least `gap`, in the same order, around the same middle."""
    order = np.argsort(heights, kind="stable")
    placed = np.array(heights, dtype=float)[order]
    for index in range(1, len(placed)):
        placed[index] = max(placed[index], placed[index - 1] + gap)
    placed -= placed.mean() - float(np.mean(heights))
    result = np.empty_like(placed)
    result[order] = placed
    return [float(height) for height in result]


def _short(label: str) -> str:
    return label if len(label) <= _LABEL else f"{label[: _LABEL - 1]}…"


def _draw_line(axes: Axes, series: Series, colour: str) -> tuple[float, float]:
    """Draw one series; its last step and settled last value."""
    steps, values = thin(series.steps, series.values)
    if len(steps) >= _SMOOTH_FROM:
        axes.plot(steps, values, color=colour, linewidth=0.8, alpha=0.3)
        width = max(3, len(steps) // 20) | 1
        settled = float(values[-(width // 2 + 1) :].mean())
        values = smooth(values, width)
        values[-1] = settled
    marker = "o" if len(steps) == 1 else None
    axes.plot(steps, values, color=colour, linewidth=1.8, solid_capstyle="round", marker=marker)
    return float(steps[-1]), float(values[-1])


def _label_ends(figure: Figure, axes: Axes, labels: Sequence[str], ends: Sequence[tuple[float, float]]) -> None:
    figure.draw_without_rendering()  # fixes the limits, so that label distances can be given in pixels
    to_pixels, to_data = axes.transData, axes.transData.inverted()
    right = max(step for step, _ in ends)
    pixels = [float(to_pixels.transform((right, value))[1]) for _, value in ends]
    scale = figure.dpi / 72
    for index, height in enumerate(_spread(pixels, (TEXT_PX + 2) * scale)):
        y = float(to_data.transform((0, height))[1])
        axes.annotate(
            labels[index], (right, y), xytext=(6, 0), textcoords="offset points", va="center",
            color=series_role(index).stand_in, fontsize=TEXT_PX, annotation_clip=False,
        )  # fmt: skip


def curve(series: Sequence[Series], *, name: str, title: str, x_label: str = "step") -> str | None:
    """One quantity against steps, as SVG; None if no series has a finite value.

    Args:
        series: one line each.
        name: prefix of the ids, unique in the page.
        title: what is drawn, for screen readers (the page prints its own heading).
    """
    shown = [line for line in series if np.isfinite(line.values.astype(float)).any()]
    if not shown:
        return None
    with style(name):
        figure, axes = new_figure(WIDTH, HEIGHT)
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        ends = [_draw_line(axes, line, series_role(index).stand_in) for index, line in enumerate(shown)]
        several = len(shown) > 1
        labels = [f"{number(end[1])} {_short(line.label)}" if several else number(end[1])
                  for line, end in zip(shown, ends, strict=True)]  # fmt: skip
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.tick_params(axis="x", length=3)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_count(value)))
        digits = _digits(axes.get_yticks())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value, digits)))
        axes.set_xlabel(x_label)
        # Room on the right for the longest label: about 0.58 em a character.
        room = 12 + max(len(label) for label in labels) * TEXT_PX * 0.58
        figure.subplots_adjust(left=52 / WIDTH, right=1 - min(room / WIDTH, 0.5), top=1 - 10 / HEIGHT,
                               bottom=40 / HEIGHT)  # fmt: skip
        _label_ends(figure, axes, labels, ends)
        return to_svg(figure, name=name, title=title)
