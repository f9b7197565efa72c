"""From single clips to one tensor."""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor


def stack(clips: Sequence[np.ndarray], repeat: int = 1) -> Tensor:
    """Clips uint8 (T, H, W, C), possibly views, to one contiguous tensor (B, C, T, H, W), copying each pixel once.

    Args:
        clips: of one shape.
        repeat: how often a frame is shown; more than once only where T is 1.
    """
    frames, height, width, channels = clips[0].shape
    clips_BCTHW = np.empty((len(clips), channels, frames * repeat, height, width), np.uint8)
    for target_CTHW, clip_THWC in zip(clips_BCTHW, clips, strict=True):
        for number, frame_HWC in enumerate(clip_THWC):
            # The assignment of a transposed view costs four times as much: it walks in steps of three bytes.
            cv2.split(frame_HWC, list(target_CTHW[:, number]))
        target_CTHW[:, frames:] = target_CTHW[:, :1]  # an image, shown again
    return torch.from_numpy(clips_BCTHW)
