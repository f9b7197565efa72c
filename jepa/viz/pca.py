"""Features as colours: the first three principal components of the tokens become red, green and blue.

Tokens of all given clips share one basis, so equal colours mean equal features, within a clip and between clips.
Features of a video encoder carry their position strongly, above all in small models; with enough clips the mean
feature of each place of the grid can be taken away first, and what is left is about content. Scaling is by
percentiles, because a few outlier tokens would otherwise grey the picture. Signs are fixed (the largest loading of
each component is positive), so the same features always get the same colours.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MIN_CLIPS_FOR_PLACE = 8
_LOW, _HIGH = 2.0, 98.0


@dataclass(frozen=True)
class FeatureMaps:
    """Tokens as colours."""

    colours: np.ndarray
    """uint8 (B, steps, rows, columns, 3)."""
    explained: tuple[float, float, float]
    """Share of the variance that each of the three components holds, 0..1."""
    place_removed: bool
    """Whether the mean feature of each place of the grid was taken away."""


def principal_axes(points: np.ndarray, count: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Axes (count, D) of the centred `points` (S, D), and the share of variance each explains (count,)."""
    covariance = points.T @ points / max(len(points) - 1, 1)
    variance, vectors = np.linalg.eigh(covariance)
    axes = vectors[:, ::-1][:, :count].T
    largest = np.abs(axes).argmax(1)
    axes = axes * np.sign(axes[np.arange(len(axes)), largest])[:, None]
    total = float(variance.clip(0).sum())
    shares = variance[::-1][:count].clip(0) / total if total > 0 else np.zeros(len(axes))
    return axes, shares


def feature_maps(
    tokens_BND: np.ndarray, shape: tuple[int, int, int], *, remove_place: bool | None = None
) -> FeatureMaps:
    """Principal components of tokens as colours.

    Args:
        tokens_BND: float (B, N, D), the features of B clips.
        shape: steps, rows and columns of the grid; their product is N.
        remove_place: take away the mean feature of each place; by default if there are at least 8 clips.
    """
    clips, count, width = tokens_BND.shape
    if count != int(np.prod(shape)):
        raise ValueError(f"got {count} tokens a clip, expected {int(np.prod(shape))} for the grid {shape}")
    if remove_place is None:
        remove_place = clips >= MIN_CLIPS_FOR_PLACE
    points = tokens_BND.astype(np.float64)
    points = points - points.mean(0 if remove_place else (0, 1), keepdims=True)
    axes, shares = principal_axes(points.reshape(-1, width))
    projected = points.reshape(-1, width) @ axes.T
    if projected.shape[1] < 3:  # narrower than three features
        missing = 3 - projected.shape[1]
        projected = np.pad(projected, ((0, 0), (0, missing)))
        shares = np.pad(shares, (0, missing))
    low, high = np.percentile(projected, _LOW, axis=0), np.percentile(projected, _HIGH, axis=0)
    spread = np.where(high > low, high - low, 1.0)
    unit = ((projected - low) / spread).clip(0, 1)
    colours = (unit * 255).round().astype(np.uint8).reshape(clips, *shape, 3)
    return FeatureMaps(colours, (float(shares[0]), float(shares[1]), float(shares[2])), remove_place)


def beside_frames(maps: np.ndarray, frames: int) -> Sequence[int]:
    """The frame shown with each step: the middle one of the frames that the step covers."""
    steps = maps.shape[0]
    return [(2 * step + 1) * frames // (2 * steps) for step in range(steps)]
