"""From a scene to frames: sprites are moved, averaged down and laid over the background.

Each body is drawn once (shapes.sprite) at a multiple of the frame's resolution, then moved and turned
for every frame by a bilinear warp and averaged down by area, which is the anti-aliasing: sub-pixel
motion shows. Coordinates of images are continuous: pixel (row i, column j) has its centre at
x = j + 0.5, y = i + 0.5.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from jepa.data.synthetic.shapes import Look, sprite

MARGIN = 0.2
"""The background is larger than the frame by this many image widths on every side: room for the camera."""


@dataclass(frozen=True)
class Layer:
    """One body, or the pillar, through the clip."""

    look: Look
    centres: np.ndarray
    """float64 (T, 2): x, y in image widths, camera motion included."""
    angles: np.ndarray
    """float64 (T,): rotation in radians, clockwise on the screen."""
    instance: int
    """Its number in the instance masks, from 1."""


@dataclass(frozen=True)
class Pillar:
    """A vertical strip from top to bottom."""

    x: np.ndarray
    """float64 (T,): centre in image widths, camera motion included."""
    width: float
    """Image widths."""
    grey: float
    """0 to 1."""
    front: bool
    """True: hides the bodies; False: stands behind them."""


def supersampling(size: int) -> int:
    """Resolution of the sprites as a multiple of the frame's: 4 at 40 pixels, 1 at 160 and more."""
    return min(4, max(1, 160 // size))


def render(
    background: np.ndarray, shift: np.ndarray, layers: list[Layer], pillar: Pillar | None, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Frames uint8 (T, size, size, 3) and instance masks uint8 (T, size, size).

    background: float32 (G, G, 3), 0 to 1, larger than the frame by MARGIN on every side.
    shift: (T, 2) motion of the background by the camera, in image widths.
    layers: from back to front.
    """
    frames = np.stack([_place_background(background, offset * size, size) for offset in shift])
    instances = np.zeros(frames.shape[:3], np.uint8)
    if pillar is not None and not pillar.front:
        _lay_pillar(frames, instances, pillar)
    for layer in layers:
        warped = _warp_layer(layer, size)
        alpha = warped[..., 3:]
        frames *= 1.0 - alpha
        frames += warped[..., :3]
        instances[alpha[..., 0] > 0.5] = layer.instance
    if pillar is not None and pillar.front:
        _lay_pillar(frames, instances, pillar)
    return np.round(np.clip(frames, 0.0, 1.0) * 255.0).astype(np.uint8), instances


def _place_background(background: np.ndarray, offset: np.ndarray, size: int) -> np.ndarray:
    """The part of the background that the camera sees, float32 (size, size, 3)."""
    margin = (background.shape[0] - size) / 2.0
    matrix = np.array([[1.0, 0.0, offset[0] - margin], [0.0, 1.0, offset[1] - margin]])
    return cv2.warpAffine(background, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _warp_layer(layer: Layer, size: int) -> np.ndarray:
    """float32 (T, size, size, 4): the body in every frame, premultiplied."""
    factor = supersampling(size)
    image = sprite(layer.look, size * factor)
    side = image.shape[0]
    reach = math.ceil(side * 0.71 / factor) + 1  # half diagonal in pixels of the frame
    warped = np.zeros((len(layer.centres), size, size, 4), np.float32)
    for frame, ((x, y), angle) in enumerate(zip(layer.centres * size, layer.angles, strict=True)):
        left, top = max(0, math.floor(x) - reach), max(0, math.floor(y) - reach)
        right, bottom = min(size, math.ceil(x) + reach), min(size, math.ceil(y) + reach)
        if left >= right or top >= bottom:
            continue  # outside the frame
        cos, sin, middle = math.cos(angle), math.sin(angle), (side - 1) / 2.0
        column, row = (x - left) * factor - 0.5, (y - top) * factor - 0.5
        matrix = np.array(
            [
                [cos, -sin, column - cos * middle + sin * middle],
                [sin, cos, row - sin * middle - cos * middle],
            ]
        )
        area = (right - left, bottom - top)
        moved = cv2.warpAffine(image, matrix, (area[0] * factor, area[1] * factor), flags=cv2.INTER_LINEAR)
        if factor > 1:
            moved = cv2.resize(moved, area, interpolation=cv2.INTER_AREA)
        warped[frame, top:bottom, left:right] = moved
    return warped


def _lay_pillar(frames: np.ndarray, instances: np.ndarray, pillar: Pillar) -> None:
    """Draw the strip over what is there, in place; its edges are exact to a fraction of a pixel."""
    size = frames.shape[2]
    columns = np.arange(size) + 0.5
    distance = np.abs(columns[None] - pillar.x[:, None] * size)
    alpha = np.clip(pillar.width * size / 2.0 - distance + 0.5, 0.0, 1.0).astype(np.float32)[:, None, :, None]
    frames *= 1.0 - alpha
    frames += alpha * pillar.grey
    instances[np.broadcast_to(alpha[..., 0] > 0.5, instances.shape)] = 0
