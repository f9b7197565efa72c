"""A contact sheet of samples: a row for each, its name at the left, some of its frames from left to right.

Samples differ in size and shape, so every frame is fitted into a cell of one size: shrunk by averaging or enlarged
by a whole factor without smoothing, never stretched, centred on black.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

CELL = (96, 128)
"""Height and width of a frame on the sheet, in pixels."""
TITLE = 220
"""Width of the names."""
_GAP = 2
_LINE = 18
_LETTERS = 30  # of a line
_INK = (230, 230, 230)


@dataclass(frozen=True)
class SheetRow:
    """One sample."""

    lines: tuple[str, ...]
    """What stands beside the frames; letters outside ASCII become question marks."""
    frames: np.ndarray | None
    """uint8 (T, H, W, 3) RGB; None if there are none to show."""


def sample_sheet(rows: Sequence[SheetRow]) -> np.ndarray:
    """The rows below each other as one picture, uint8 (H, W, 3) RGB; short rows end in black.

    Raises:
        ValueError: no rows.
    """
    if not rows:
        raise ValueError("got no samples, expected at least one row")
    columns = max(1, *(0 if row.frames is None else len(row.frames) for row in rows))
    height, width = CELL[0] + _GAP, CELL[1] + _GAP
    sheet = np.zeros((len(rows) * height, TITLE + columns * width, 3), np.uint8)
    for down, row in enumerate(rows):
        top = down * height
        for number, line in enumerate(row.lines):
            text = line.encode("ascii", "replace").decode()
            text = text if len(text) <= _LETTERS else f"{text[: _LETTERS - 3]}..."
            place = (6, top + (number + 1) * _LINE)
            cv2.putText(sheet, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, _INK, 1, cv2.LINE_AA)
        for right, frame in enumerate([] if row.frames is None else row.frames):
            left = TITLE + right * width
            sheet[top : top + CELL[0], left : left + CELL[1]] = fitted(frame)
    return sheet


def fitted(frame: np.ndarray, height: int = CELL[0], width: int = CELL[1]) -> np.ndarray:
    """uint8 (H, W, 3) inside a black picture of `height` x `width`."""
    factor = min(height / frame.shape[0], width / frame.shape[1])
    if factor >= 1:
        inner = frame.repeat(int(factor), axis=0).repeat(int(factor), axis=1)
    else:
        size = (max(1, round(frame.shape[1] * factor)), max(1, round(frame.shape[0] * factor)))
        inner = cv2.resize(np.ascontiguousarray(frame), size, interpolation=cv2.INTER_AREA)
    cell = np.zeros((height, width, 3), np.uint8)
    top, left = (height - inner.shape[0]) // 2, (width - inner.shape[1]) // 2
    cell[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
    return cell
