"""Raw pixels as features: what a classifier can do without any encoder.

Each clip is averaged down to 16 x 16 pixels; all frames and their signed differences in time are laid out as
one vector. The differences add nothing a linear classifier could not form itself, but standardised on their own
they weigh as much as the pixels, which helps under a penalty and decides the nearest neighbours. A
representation worth having beats this.

Beside an encoder's tokens stand the pixels of each token by themselves, for probes of tokens.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from jepa.data.loader_config import LoaderConfig
from jepa.errors import ConfigError
from jepa.eval.clips import ClipSet
from jepa.eval.features import ClipView, empty_table, evaluation_clips
from jepa.models.encoder import Encoder
from jepa.tokens import TokenGrid, tubelets


@dataclass(frozen=True)
class PixelsConfig:
    """Raw-pixel baseline."""

    size: int = 16
    """Height and width the clips are averaged down to."""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ConfigError(f"pixels.size is {self.size}, expected 1 or more")


def pixel_features(clips_BCTHW: Tensor, size: int) -> Tensor:
    """Pixels 0..1 at `size` x `size` and their differences between neighbouring frames: (B, C * (2T - 1) * size^2).

    Args:
        clips_BCTHW: uint8.
        size: height and width in pixels; smaller clips stay as they are.
    """
    batch, channels, frames, height, width = clips_BCTHW.shape
    flat = clips_BCTHW.transpose(1, 2).reshape(batch * frames, channels, height, width).float() / 255
    small = F.adaptive_avg_pool2d(flat, (min(size, height), min(size, width))).unflatten(0, (batch, frames))
    return torch.cat([small.flatten(1), (small[:, 1:] - small[:, :-1]).flatten(1)], dim=1)


def pixel_table(
    clips: ClipSet, view: ClipView, *, loader: LoaderConfig, config: PixelsConfig, memory_gb: float, what: str
) -> Tensor:
    """Pixel features of every clip, float32 (clips, features)."""
    table: Tensor | None = None
    for rows, batch in evaluation_clips(clips, view, loader, what):
        features_BF = pixel_features(batch.clips, config.size).unflatten(0, (-1, view.segments)).flatten(1)
        if table is None:
            table = empty_table((len(clips), features_BF.shape[1]), memory_gb)
        table[rows] = features_BF
    assert table is not None  # evaluation_clips refuses an empty set
    return table


def pixel_tokens(
    clips: ClipSet, view: ClipView, like: Encoder, *, loader: LoaderConfig, memory_gb: float, what: str
) -> tuple[Tensor, TokenGrid]:
    """Pixels 0..1 of each token that an encoder makes of a clip: float32 (videos, segments * N, P), and their grid."""
    table: Tensor | None = None
    grid: TokenGrid | None = None
    for rows, batch in evaluation_clips(clips, view, loader, what):
        pixels_BCTHW = batch.clips.float() / 255
        grid = like.grid_of(pixels_BCTHW)
        tubelet = 1 if pixels_BCTHW.shape[2] == 1 else like.config.tubelet
        found_BNP = tubelets(pixels_BCTHW, tubelet=tubelet, patch=like.config.patch)
        found_BNP = found_BNP.unflatten(0, (-1, view.segments)).flatten(1, 2)
        if table is None:
            table = empty_table((len(clips), *found_BNP.shape[1:]), memory_gb)
        table[rows] = found_BNP
    assert table is not None  # evaluation_clips refuses an empty set
    assert grid is not None
    return table, grid
