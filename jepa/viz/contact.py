"""Frames as pictures: strips, contact sheets and the PNG data that a page carries inside itself.

Small clips (this project trains on frames of 32 pixels) are stored at their own size and enlarged by the browser
without smoothing; large ones are reduced first, because a page holds hundreds of frames. Gaps are transparent, so
the same picture lies well on light and on dark paper.
"""

import base64
import io
from collections.abc import Sequence

import matplotlib.image
import numpy as np

MAX_SIDE = 160
GAP = 2


def reduce(frame: np.ndarray, max_side: int = MAX_SIDE) -> np.ndarray:
    """uint8 (H, W, C) reduced by a whole factor, averaging blocks, until no side is above `max_side`."""
    factor = -(-max(frame.shape[:2]) // max_side)
    if factor <= 1:
        return frame
    rows, columns = frame.shape[0] // factor, frame.shape[1] // factor
    blocks = frame[: rows * factor, : columns * factor].reshape(rows, factor, columns, factor, -1)
    mean: np.ndarray = blocks.mean((1, 3)).round().astype(np.uint8)
    return mean


def enlarge(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """(h, w, ...) to (height, width, ...), nearest neighbour."""
    rows = np.arange(height) * frame.shape[0] // height
    columns = np.arange(width) * frame.shape[1] // width
    larger: np.ndarray = frame[rows][:, columns]
    return larger


def with_alpha(frame: np.ndarray) -> np.ndarray:
    """uint8 RGB or RGBA (H, W, 3|4) as RGBA."""
    if frame.shape[-1] == 4:
        return frame
    return np.concatenate([frame, np.full((*frame.shape[:2], 1), 255, np.uint8)], -1)


def strip(frames: Sequence[np.ndarray] | np.ndarray, gap: int = GAP) -> np.ndarray:
    """Frames uint8 (H, W, 3|4) of one size beside each other, as uint8 RGBA with transparent gaps."""
    return sheet([frames], gap)


def sheet(rows: Sequence[Sequence[np.ndarray] | np.ndarray], gap: int = GAP) -> np.ndarray:
    """Rows of frames uint8 (H, W, 3|4), all of one size, as one uint8 RGBA picture; short rows end early."""
    if not rows or not len(rows[0]):
        raise ValueError("got no frames, expected at least one row with at least one frame")
    height, width = rows[0][0].shape[:2]
    longest = max(len(row) for row in rows)
    shape = (len(rows) * (height + gap) - gap, longest * (width + gap) - gap, 4)
    picture = np.zeros(shape, np.uint8)
    for down, row in enumerate(rows):
        for right, frame in enumerate(row):
            top, left = down * (height + gap), right * (width + gap)
            picture[top : top + height, left : left + width] = with_alpha(np.asarray(frame))
    return picture


def spaced(count: int, most: int) -> list[int]:
    """At most `most` of the indices 0..count-1, evenly spaced, first and last among them."""
    if count <= most:
        return list(range(count))
    return [round(index * (count - 1) / (most - 1)) for index in range(most)] if most > 1 else [0]


def varied(labels: Sequence[Sequence[str]], most: int) -> list[int]:
    """At most `most` of the indices of `labels` whose labels differ most, in rising order.

    Taken one by one: each time the first item that shares fewest labels, earlier labels counting more, with those
    already taken. Without any labels the indices are evenly spaced.

    Args:
        labels: the labels of each item, the most important one first.
    """
    if len(labels) <= most or not any(labels):
        return spaced(len(labels), most)
    taken: list[int] = []
    while len(taken) < most:
        rest = [index for index in range(len(labels)) if index not in taken]
        taken.append(min(rest, key=lambda index: sum(_shared(labels[index], labels[other]) for other in taken)))
    return sorted(taken)


def _shared(one: Sequence[str], other: Sequence[str]) -> float:
    """How much two items have in common: 1 for the first label, 1/2 for the second, 1/4 for the third ..."""
    return sum(0.5**place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a == b)


def png(picture: np.ndarray) -> bytes:
    """uint8 (H, W, 3|4) as a PNG file; equal arrays give equal bytes."""
    buffer = io.BytesIO()
    # An empty "Software" keeps Matplotlib's version out of the bytes.
    matplotlib.image.imsave(buffer, picture, format="png", metadata={"Software": ""})
    return buffer.getvalue()


def data_uri(picture: np.ndarray) -> str:
    """uint8 (H, W, 3|4) as a `data:` address that an `<img>` of a self-contained page can show."""
    return "data:image/png;base64," + base64.b64encode(png(picture)).decode()
