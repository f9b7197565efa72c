"""Appearance: outlines, colours and textures of bodies, drawn once per body as a sprite.

Every label keeps the same classes in both splits, but the test split has members of each class that
training never shows: the other variant of each shape and texture, and the outer hues of each colour
family. So a probe of appearance can be trained on one split and tested on the other, and a probe of
motion is tested on looks that nothing was trained on.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import Literal

import cv2
import numpy as np

Split = Literal["train", "test"]

SHAPES: tuple[str, ...] = ("round", "square", "triangle", "star", "cross", "bar")
"""Families of outlines."""
COLOURS: tuple[str, ...] = ("red", "yellow", "green", "cyan", "blue", "magenta")
"""Families of hues, 60 degrees each, centred on 0, 60, ... degrees."""
TEXTURES: tuple[str, ...] = ("plain", "stripes", "checks", "spots")
"""Families of surface patterns."""

TRAIN_HUES: tuple[float, float] = (0.0, 14.0)
"""Distance in degrees from the centre of the family, either side."""
TEST_HUES: tuple[float, float] = (18.0, 27.0)

_EXTENT = 1.6  # a sprite covers this many radii either side of the centre: the longest outline and its blur


@dataclass(frozen=True)
class Look:
    """What one body looks like."""

    shape: str
    colour: str
    texture: str
    split: Split
    """Decides which variant of shape and texture is drawn."""
    hue: float
    """Degrees."""
    saturation: float
    value: float
    """Brightness of the light tone, 0 to 1."""
    depth: float
    """How much darker the dark tone of the texture is, 0 to 1."""
    grain: float
    """Rotation of the texture against the outline, radians."""
    radius: float
    """Image widths."""
    softness: float
    """Width of the soft edge (sigma), in radii."""


def draw_hue(family: int, split: Split, rng: np.random.Generator) -> float:
    """A hue of the family, from the range of the split."""
    low, high = TRAIN_HUES if split == "train" else TEST_HUES
    sign = 1.0 if rng.random() < 0.5 else -1.0
    return float(60.0 * family + sign * rng.uniform(low, high)) % 360.0


@cache
def outline(shape: str, split: Split) -> np.ndarray:
    """float64 (K, 2): corners of the outline for a body of radius 1, centred, y down."""
    train = split == "train"
    match shape:
        case "round":
            turn = np.linspace(0.0, 2.0 * math.pi, 48, endpoint=False)
            wide, tall = (1.0, 1.0) if train else (1.12, 0.84)
            return np.stack([np.cos(turn) * wide, np.sin(turn) * tall], axis=-1)
        case "square":
            top = 0.86 if train else 0.6
            return np.array([(-top, -0.86), (top, -0.86), (0.9, 0.86), (-0.9, 0.86)])
        case "triangle":
            half = 1.12 if train else 0.86
            return np.array([(0.0, -1.3), (half, 0.66), (-half, 0.66)])
        case "star":
            points, inner = (5, 0.55) if train else (6, 0.6)
            turn = np.arange(2 * points) * math.pi / points - math.pi / 2.0
            reach = np.tile([1.3, inner], points)
            return np.stack([np.cos(turn) * reach, np.sin(turn) * reach], axis=-1)
        case "cross":
            return _cross(0.36, 1.15, 1.15) if train else _cross(0.3, 1.3, 0.95)
        case "bar":
            return np.array([(-1.4, -0.45), (1.4, -0.45), (1.4, 0.45), (-1.4, 0.45)]) if train else _capsule(1.3, 0.5)
    raise ValueError(f"shape {shape!r}: expected one of {SHAPES}")


def _cross(arm: float, tall: float, wide: float) -> np.ndarray:
    quarter = [(arm, -tall), (arm, -arm), (wide, -arm)]
    lower = [(x, -y) for x, y in reversed(quarter)]
    right = quarter + lower
    return np.array(right + [(-x, y) for x, y in reversed(right)])


def _capsule(length: float, radius: float) -> np.ndarray:
    turn = np.linspace(-math.pi / 2.0, math.pi / 2.0, 12)
    cap = np.stack([np.cos(turn) * radius + (length - radius), np.sin(turn) * radius], axis=-1)
    return np.concatenate([cap, -cap])


def pattern(texture: str, split: Split, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Darkness 0 to 1 of the texture at body coordinates (u, v), in radii."""
    train = split == "train"
    rate = math.pi * 1.3
    match texture:
        case "plain":
            return np.clip((0.5 + 0.4 * u) if train else (u * u + v * v) * 0.8, 0.0, 1.0)
        case "stripes":
            return _step(np.sin(rate * 1.3 * u) if train else np.sin(rate * (u + 0.35 * np.sin(rate * v))))
        case "checks":
            w = v if train else 0.5 * u + 0.87 * v
            return _step(np.sin(rate * u) * np.sin(rate * w))
        case "spots":
            if train:
                return _step(np.cos(rate * u) + np.cos(rate * v) - 0.6)
            third = np.cos(rate * (0.5 * u + 0.87 * v)) + np.cos(rate * (0.5 * u - 0.87 * v))
            return _step(0.2 - np.cos(rate * u) - third)
    raise ValueError(f"texture {texture!r}: expected one of {TEXTURES}")


def _step(wave: np.ndarray) -> np.ndarray:
    """Soft two-tone version of a wave."""
    return np.clip(0.5 + 2.0 * wave, 0.0, 1.0)


def sprite(look: Look, scale: float) -> np.ndarray:
    """float32 (Q, Q, 4): the body, colour premultiplied by alpha (0 to 1) and alpha, at `scale` pixels per image width.

    Q is odd; the centre of the body is the centre of the middle pixel.
    """
    radius = look.radius * scale
    half = math.ceil(_EXTENT * radius + 3.0 * look.softness * radius)
    side = 2 * half + 1
    alpha = np.zeros((side, side), np.uint8)
    corners = (outline(look.shape, look.split) * radius + half) * 256.0
    cv2.fillPoly(alpha, [np.round(corners).astype(np.int32)], 255, lineType=cv2.LINE_AA, shift=8)
    sigma = max(look.softness * radius, 0.3)
    soft = cv2.GaussianBlur(alpha.astype(np.float32) / 255.0, (0, 0), sigma)
    axis = (np.arange(side, dtype=np.float32) - half) / radius
    cos, sin = math.cos(look.grain), math.sin(look.grain)
    u, v = axis[None] * cos + axis[:, None] * sin, axis[:, None] * cos - axis[None] * sin
    tone = 1.0 - look.depth * pattern(look.texture, look.split, u, v)
    rgb = rgb_of(look.hue, look.saturation, look.value)
    premultiplied = np.empty((side, side, 4), np.float32)
    premultiplied[..., :3] = (tone * soft)[..., None] * rgb
    premultiplied[..., 3] = soft
    return premultiplied


def rgb_of(hue: float, saturation: float, value: float) -> np.ndarray:
    """float32 (3,), 0 to 1: hue in degrees, saturation and value 0 to 1."""
    offset = (np.array([5.0, 3.0, 1.0]) + hue / 60.0) % 6.0
    weight = np.clip(np.minimum(offset, 4.0 - offset), 0.0, 1.0)
    return np.asarray(value * (1.0 - saturation * weight), np.float32)
