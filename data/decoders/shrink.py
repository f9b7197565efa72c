"""Making frames smaller: area averaging, the same for every decoder, so that they return the same pixels."""

import cv2
import numpy as np


def scaled_size(height: int, width: int, short_side: int | None) -> tuple[int, int]:
    """Height and width after shrinking the shorter side to `short_side`; smaller videos keep their size."""
    shorter = min(height, width)
    if short_side is None or shorter <= short_side:
        return height, width
    return round(height * short_side / shorter), round(width * short_side / shorter)


def shrunk(frame_HWC: np.ndarray, short_side: int | None) -> np.ndarray:
    """The frame at its `scaled_size`; itself if that is its size."""
    old_height, old_width, _ = frame_HWC.shape
    height, width = scaled_size(old_height, old_width, short_side)
    if (height, width) == (old_height, old_width):
        return frame_HWC
    return cv2.resize(np.ascontiguousarray(frame_HWC), (width, height), interpolation=cv2.INTER_AREA)


def shrunk_clip(clip_THWC: np.ndarray, short_side: int | None) -> np.ndarray:
    """All frames at their `scaled_size`; the array itself, not a copy, if that is their size."""
    count, *size, channels = clip_THWC.shape
    height, width = scaled_size(size[0], size[1], short_side)
    if size == [height, width]:
        return clip_THWC
    small_THWC = np.empty((count, height, width, channels), np.uint8)
    for source_HWC, target_HWC in zip(clip_THWC, small_THWC, strict=True):
        cv2.resize(source_HWC, (width, height), dst=target_HWC, interpolation=cv2.INTER_AREA)
    return small_THWC
