"""What travels between the floors, and the legend of the shape letters.

Shape letters, used as suffixes of tensor names (`target_BND`) and in annotations:
B batch, T frames, C channels, H W pixels, N tokens of the grid, K kept (context) tokens,
M target tokens, D width, L levels, P pixels of a token.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from jepa.tokens import Mask, TokenGrid


@dataclass(frozen=True)
class Clip:
    """Frames cut from one video."""

    frames: np.ndarray
    """uint8 (T, H, W, C), RGB."""
    key: str
    """Name of the sample in its source."""
    position: int
    """n: this is the n-th sample of the run."""
    window: tuple[int, ...]
    """Indices of the frames in the video."""
    source: str = ""
    """Name of the data set."""


@dataclass(frozen=True)
class ClipBatch:
    """One step's input, as the loader yields it."""

    clips: Tensor
    """(B, C, T, H, W): uint8 from the loader, normalised float inside the step."""
    masks: tuple[Mask, ...]
    """One per mask configuration."""
    grid: TokenGrid
    positions: Tensor
    """(B,) int64: position of each clip in the run's order."""
    keys: tuple[str, ...] = ()
    """Name of each clip's sample."""
    sources: tuple[str, ...] = ()
    """Name of each clip's data set."""
    windows: tuple[tuple[int, ...], ...] = ()
    """Frames of each clip in its video."""
    step: int = 0
    """Optimizer steps done before this one; set by the training step, for what an objective schedules."""

    @property
    def single_frame(self) -> bool:
        """Whether these are images: clips of one frame."""
        return self.clips.shape[2] == 1

    def parts(self, count: int) -> "list[ClipBatch]":
        """The batch cut into this many equal ones. Raises ValueError if it cannot be."""
        if len(self.clips) % count:
            raise ValueError(f"{len(self.clips)} clips cannot be cut into {count} equal parts")
        size = len(self.clips) // count
        return [self._of(slice(first, first + size)) for first in range(0, len(self.clips), size)]

    def _of(self, rows: slice) -> "ClipBatch":
        masks = tuple(Mask(mask.context[rows], mask.target[rows], mask.blocks) for mask in self.masks)
        facts = {name: getattr(self, name)[rows] for name in ("clips", "positions", "keys", "sources", "windows")}
        return replace(self, masks=masks, **facts)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "ClipBatch":
        clips, masks = self.clips.to(device, non_blocking=non_blocking), self.masks
        return replace(self, clips=clips, masks=tuple(mask.to(device, non_blocking=non_blocking) for mask in masks))

    def pin_memory(self) -> "ClipBatch":
        return replace(self, clips=self.clips.pin_memory(), masks=tuple(mask.pin_memory() for mask in self.masks))


@dataclass(frozen=True)
class StepOutput:
    """What an objective returns: the loss that is minimised, its named terms, and what is only watched."""

    loss: Tensor
    terms: Mapping[str, Tensor]
    diagnostics: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, diagnostics: Mapping[str, Tensor] | None = None, **terms: Tensor) -> "StepOutput":
        """Loss = sum of the terms."""
        return cls(torch.stack(list(terms.values())).sum(), terms, diagnostics or {})
