"""Confusion matrices: rows are the true classes, columns what the probe said, cells the share of the row.

With many classes a full matrix is unreadable; then only the classes that are recognised worst are drawn. The pairs
that are mixed up most say the same in words.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from jepa.viz.style import ACCENT, INK, LINE, PAPER, TEXT_PX, new_figure, style, to_svg

MAX_CLASSES = 30
_CELL = 34.0


@dataclass(frozen=True)
class Mistake:
    """Two classes that are mixed up."""

    truth: str
    predicted: str
    count: int
    share: float
    """Of the clips of the true class, 0..1."""


def confusion_counts(truth: Sequence[int], predicted: Sequence[int], classes: int) -> np.ndarray:
    """int (classes, classes): how many clips of class row were called column."""
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (np.asarray(truth, np.int64), np.asarray(predicted, np.int64)), 1)
    return counts


def row_shares(counts: np.ndarray) -> np.ndarray:
    """Each row divided by its sum; empty rows stay zero."""
    totals = counts.sum(1, keepdims=True)
    shares: np.ndarray = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    return shares


def worst_mistakes(counts: np.ndarray, classes: Sequence[str], most: int = 5) -> list[Mistake]:
    """The off-diagonal cells with the largest share of their row, largest first."""
    shares = row_shares(counts)
    np.fill_diagonal(shares, 0)
    order = np.argsort(-shares, axis=None, kind="stable")[:most]
    cells = [(int(cell) // len(classes), int(cell) % len(classes)) for cell in order]
    return [
        Mistake(classes[row], classes[column], int(counts[row, column]), float(shares[row, column]))
        for row, column in cells
        if shares[row, column] > 0
    ]


def hardest(counts: np.ndarray, most: int = MAX_CLASSES) -> list[int]:
    """The classes with the lowest recall, in their own order; all of them if there are at most `most`."""
    if len(counts) <= most:
        return list(range(len(counts)))
    recall = np.diag(row_shares(counts))
    return sorted(int(index) for index in np.argsort(recall, kind="stable")[:most])


def confusion(
    counts: np.ndarray, classes: Sequence[str], *, name: str, title: str, totals: np.ndarray | None = None
) -> str:
    """A confusion matrix as SVG, cells shaded by the share of their row, numbers in per cent.

    Args:
        counts: int (C, C), as `confusion_counts` gives them, or a part of it.
        classes: C names.
        name: prefix of the ids, unique in the page.
        title: what is drawn, for screen readers.
        totals: int (C,) clips of each class, if `counts` is a part; the sums of the rows when none.
    """
    whole = counts.sum(1) if totals is None else totals
    shares = counts / np.maximum(whole, 1)[:, None]
    size = len(classes)
    left = 24 + max(len(label) for label in classes) * TEXT_PX * 0.6
    top = 24 + max(len(label) for label in classes) * TEXT_PX * 0.47
    width, height = left + size * _CELL + 30, top + size * _CELL + 4
    with style(name):
        figure, axes = new_figure(width, height)
        figure.subplots_adjust(left=left / width, right=1 - 30 / width, top=1 - top / height, bottom=4 / height)
        for row in range(size):
            for column in range(size):
                _draw_cell(axes, row, column, float(shares[row, column]))
        axes.set(xlim=(0, size), ylim=(size, 0))
        axes.set_xticks(np.arange(size) + 0.5, classes, rotation=45, ha="left", rotation_mode="anchor")
        axes.set_yticks(np.arange(size) + 0.5, classes)
        axes.xaxis.tick_top()
        axes.tick_params(length=0, pad=5, labelcolor=INK.stand_in)
        axes.spines[:].set_visible(False)
        return to_svg(figure, name=name, title=title)


def _draw_cell(axes: Axes, row: int, column: int, share: float) -> None:
    axes.add_patch(Rectangle((column, row), 1, 1, facecolor="none", edgecolor=LINE.stand_in, linewidth=0.6))
    if share <= 0:
        return
    shade = 0.06 + 0.94 * share
    axes.add_patch(Rectangle((column, row), 1, 1, facecolor=ACCENT.stand_in, alpha=shade, linewidth=0))
    ink = PAPER.stand_in if share > 0.5 else INK.stand_in
    middle = (column + 0.5, row + 0.5)
    axes.text(*middle, f"{100 * share:.0f}", ha="center", va="center", color=ink, fontsize=TEXT_PX - 1)
