"""Where a clip is cropped: the same box and the same flip for all its frames.

Pretraining draws the box as torchvision's RandomResizedCrop does (area a fraction of the frame, aspect ratio
log-uniform, ten tries, then the largest centred box of an allowed ratio); evaluation takes the centre square. Both
end at `size` x `size` pixels. A box that changed from frame to frame would look like motion, and motion is what the
model is to predict.

Boxes are resized by OpenCV, frame by frame. Bilinear interpolation reads two pixels each way, so it skips none until
a frame shrinks by more than a factor of two; beyond that INTER_AREA averages all of them.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from jepa.errors import ConfigError

# Frames are small and the loader runs one process per core: OpenCV's own threads would only compete with them,
# and a thread pool does not survive a fork.
cv2.setNumThreads(0)

TRIES = 10

Box = tuple[int, int, int, int]
"""top, left, height, width in pixels."""


@dataclass(frozen=True)
class AugmentConfig:
    """Random resized crop and flip, one draw per clip."""

    size: int = 224
    """Height and width of the clip in pixels."""
    scale: tuple[float, float] = (0.3, 1.0)
    """Smallest and largest area of the crop, as a fraction of the frame."""
    ratio: tuple[float, float] = (0.75, 1.35)
    """Smallest and largest width / height of the crop, before it is resized to a square."""
    flip: bool = True
    """Mirror half of the clips left to right (turn off where left and right have meaning)."""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ConfigError(f"clip.size is {self.size}, expected a positive number of pixels")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ConfigError(f"clip.scale is {self.scale}, expected 0 < smallest <= largest <= 1")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ConfigError(f"clip.ratio is {self.ratio}, expected 0 < smallest <= largest")


def augment(frames: np.ndarray, config: AugmentConfig, rng: np.random.Generator) -> np.ndarray:
    """Crop, resize and perhaps mirror a clip.

    Args:
        frames: uint8 (T, H, W, C).
        config: size, scale, ratio, flip.
        rng: decides the box and the flip; the same generator state gives the same clip.

    Returns:
        uint8 (T, size, size, C); may be a view of `frames`.
    """
    top, left, height, width = random_box(frames.shape[1], frames.shape[2], config, rng)
    clip = resize(frames[:, top : top + height, left : left + width], config.size)
    if config.flip and rng.random() < 0.5:
        return mirror(clip)
    return clip


def centre_crop(frames: np.ndarray, size: int) -> np.ndarray:
    """Centre square of a clip, resized; (T, H, W, C) -> (T, size, size, C).

    The same pixels as "resize the short side to `size`, cut the centre", without resizing what is cut off.
    """
    return resize(_centre_square(frames), size)


def centre_crop_labels(labels: np.ndarray, size: int) -> np.ndarray:
    """What `centre_crop` does to a clip, done to numbers of its pixels: the nearest one counts, none are mixed.

    Args:
        labels: uint8 (T, H, W).
        size: height and width of the clip in pixels.

    Returns:
        uint8 (T, size, size); may be a view of `labels`.
    """
    square = _centre_square(labels)
    if square.shape[1:] == (size, size):
        return square
    # INTER_NEAREST lies up to a pixel off the centres that the other methods go by.
    return np.stack([cv2.resize(face, (size, size), interpolation=cv2.INTER_NEAREST_EXACT) for face in square])


def _centre_square(frames: np.ndarray) -> np.ndarray:
    height, width = frames.shape[1:3]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return frames[:, top : top + side, left : left + side]


def random_box(height: int, width: int, config: AugmentConfig, rng: np.random.Generator) -> Box:
    """Box of a random resized crop of a `height` x `width` frame."""
    low, high = math.log(config.ratio[0]), math.log(config.ratio[1])
    for _ in range(TRIES):
        area = height * width * rng.uniform(*config.scale)
        ratio = math.exp(rng.uniform(low, high))
        box_width, box_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < box_width <= width and 0 < box_height <= height:
            top, left = rng.integers(height - box_height + 1), rng.integers(width - box_width + 1)
            return int(top), int(left), box_height, box_width
    return _centre_box(height, width, config.ratio)


def _centre_box(height: int, width: int, ratio: tuple[float, float]) -> Box:
    """Largest centred box whose width / height lies within `ratio`."""
    box_width = max(1, min(width, round(height * ratio[1])))
    box_height = max(1, min(height, round(width / ratio[0])))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def mirror(frames: np.ndarray) -> np.ndarray:
    """Left and right exchanged; (T, H, W, C) -> (T, H, W, C), a copy: a view that runs backwards is slow to stack."""
    mirrored = np.empty(frames.shape, np.uint8)
    for source, target in zip(frames, mirrored, strict=True):
        cv2.flip(source, 1, dst=target)
    return mirrored


def resize(frames: np.ndarray, size: int) -> np.ndarray:
    """Resize a clip to `size` x `size`; returns `frames` itself when it already has that size."""
    count, height, width, channels = frames.shape
    if height == width == size:
        return frames
    method = cv2.INTER_AREA if max(height, width) > 2 * size else cv2.INTER_LINEAR
    resized = np.empty((count, size, size, channels), np.uint8)
    for source, target in zip(frames, resized, strict=True):
        cv2.resize(source, (size, size), dst=target, interpolation=method)
    return resized
