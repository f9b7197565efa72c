"""From single clips to one tensor."""

from collections.abc import Sequence

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
        target_CTHW[:] = clip_THWC.transpose(3, 0, 1, 2)
    return torch.from_numpy(clips_BCTHW)
