"""The embedded default data: a small physics world, one clip at a time.

`make_clip(config, seed, index, split)` is a pure function: any clip can be made alone, in any process,
bit for bit. Motion comes from one stream of random numbers, looks, sizes, background and camera from
others, so appearance carries no information about motion and position alone does not tell the class.

Half of the clips show light bodies on a dim ground, the other half dark bodies on a light one, so no sum of pixels
tells where a body is. `easy` is what a small encoder learns in minutes on two cores: one body (two in `collide`
and `cross`) in strong contrast on a soft, nearly grey ground, the camera almost still. `hard` adds bodies that do
not take part (resting or drifting slowly), strong colours and textures, and a camera that pans and shakes.

`occlude` needs a pillar, so one clip in three of every other motion has one too, behind the bodies.
"""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from jepa.data.synthetic.render import MARGIN, Layer, Pillar, render
from jepa.data.synthetic.scenes import MOTIONS, Trajectory, movers, simulate
from jepa.data.synthetic.shapes import COLOURS, SHAPES, TEXTURES, Look, Split, draw_hue
from jepa.errors import ConfigError
from jepa.rng import generator

__all__ = ["COLOURS", "MOTIONS", "SHAPES", "TEXTURES", "SyntheticClip", "WorldConfig", "make_clip", "motion_of"]

_MOST_BODIES = 4


@dataclass(frozen=True)
class _Tones:
    """Ranges of brightness, 0 to 1."""

    ground: tuple[float, float]
    body: tuple[float, float]
    pillar: tuple[float, float]


_TONES = {
    # (world, dark bodies)
    ("easy", False): _Tones(ground=(0.15, 0.3), body=(0.85, 1.0), pillar=(0.3, 0.38)),
    ("easy", True): _Tones(ground=(0.62, 0.75), body=(0.1, 0.25), pillar=(0.55, 0.62)),
    ("hard", False): _Tones(ground=(0.15, 0.4), body=(0.85, 1.0), pillar=(0.58, 0.66)),
    ("hard", True): _Tones(ground=(0.62, 0.75), body=(0.35, 0.5), pillar=(0.45, 0.52)),
}


@dataclass(frozen=True)
class WorldConfig:
    """Which world, and the format of its clips."""

    world: Literal["easy", "hard"] = "easy"
    """Difficulty: easy is learnt in minutes on two cores; hard has distractors, textures, camera motion."""
    frames: int = 16
    """Frames per clip; a scene always fills its clip."""
    size: int = 40
    """Height and width in pixels."""
    fps: int = 8
    """Frames per second written into the files."""

    def __post_init__(self) -> None:
        if self.frames < 4:
            raise ConfigError(f"frames = {self.frames}: a motion needs at least 4 frames")
        if self.size < 16 or self.size % 2:
            raise ConfigError(f"size = {self.size}: expected an even number of pixels, 16 or more (H.264 4:2:0)")
        if self.fps < 1:
            raise ConfigError(f"fps = {self.fps}: expected 1 or more")


@dataclass(frozen=True)
class SyntheticClip:
    """One clip and everything that is known about it."""

    frames: np.ndarray
    """uint8 (T, H, W, 3), RGB."""
    labels: dict[str, str | int | float]
    """motion, shape, colour, texture (of the main body), bodies (how many)."""
    positions: np.ndarray
    """float32 (T, bodies, 2): x, y of the centres in pixels; the middle of pixel (i, j) is x = j + 0.5, y = i + 0.5."""
    instances: np.ndarray
    """uint8 (T, H, W): 0 background, 1 main body, 2 ... the others."""


def motion_of(seed: int, index: int, split: Split) -> str:
    """Class of a clip: every len(MOTIONS) consecutive indices hold each class once, in random order."""
    block, place = divmod(index, len(MOTIONS))
    order = generator(seed, block, f"synthetic/{split}/motion").permutation(len(MOTIONS))
    return MOTIONS[int(order[place])]


def make_clip(config: WorldConfig, seed: int, index: int, split: Split) -> SyntheticClip:
    """The clip number `index` of `split`: a pure function of its arguments."""

    def stream(purpose: str) -> np.random.Generator:
        return generator(seed, index, f"synthetic/{split}/{purpose}")

    hard = config.world == "hard"
    motion = motion_of(seed, index, split)
    tones = _TONES[config.world, bool(stream("polarity").random() < 0.5)]
    count = movers(motion)
    others = int(stream("others").integers(0, _MOST_BODIES - count + 1)) if hard else 0
    bodies = count + others
    looks = [_draw_look(stream(f"look {n}"), split, hard, tones, crowded=bodies > 1) for n in range(bodies)]
    path = simulate(motion, tuple(look.radius for look in looks[:count]), config.frames, stream("scene"))
    path = _add_others(path, others, stream("drift"))
    camera = _draw_camera(config.frames, hard, stream("camera"))
    centres = path.centres + camera[:, None]
    turns = stream("orientation").uniform(0.0, 2.0 * np.pi, bodies)
    layers = [Layer(look, centres[:, n], path.angles[:, n] + turns[n], instance=n + 1) for n, look in enumerate(looks)]
    background = _draw_background(config.size, hard, tones, stream("background"))
    pillar = _draw_pillar(path.pillar, camera, tones, stream("pillar"))
    frames, instances = render(background, camera, layers[::-1], pillar, config.size)
    main = looks[0]
    labels: dict[str, str | int | float] = {
        "motion": motion,
        "shape": main.shape,
        "colour": main.colour,
        "texture": main.texture,
        "bodies": bodies,
    }
    return SyntheticClip(frames, labels, (centres * config.size).astype(np.float32), instances)


def _draw_look(rng: np.random.Generator, split: Split, hard: bool, tones: _Tones, *, crowded: bool) -> Look:
    """Random appearance of one body; bodies that share the image are smaller."""
    family = int(rng.integers(len(COLOURS)))
    return Look(
        shape=SHAPES[rng.integers(len(SHAPES))],
        colour=COLOURS[family],
        texture=TEXTURES[rng.integers(len(TEXTURES))],
        split=split,
        hue=draw_hue(family, split, rng),
        saturation=float(rng.uniform(0.75, 1.0) if hard else rng.uniform(0.25, 0.55)),
        value=float(rng.uniform(*tones.body)),
        depth=float(rng.uniform(0.5, 0.7) if hard else rng.uniform(0.2, 0.35)),
        grain=float(rng.uniform(0.0, 2.0 * np.pi)),
        radius=float(rng.uniform(0.1, 0.13) if crowded else rng.uniform(0.12, 0.17)),
        softness=float(rng.uniform(0.02, 0.06) if hard else rng.uniform(0.06, 0.12)),
    )


def _add_others(path: Trajectory, others: int, rng: np.random.Generator) -> Trajectory:
    """Bodies that take no part: at rest or drifting by less than a tenth of the image."""
    if not others:
        return path
    start = rng.uniform(0.12, 0.88, (1, others, 2))
    speed = rng.uniform(-0.07, 0.07, (1, others, 2)) * (rng.random((1, others, 1)) < 0.5)
    times = np.linspace(0.0, 1.0, len(path.centres))[:, None, None]
    centres = np.concatenate([path.centres, start + times * speed], axis=1)
    angles = np.concatenate([path.angles, np.zeros((len(path.angles), others))], axis=1)
    return Trajectory(centres, angles, path.pillar)


def _draw_camera(frames: int, hard: bool, rng: np.random.Generator) -> np.ndarray:
    """(T, 2) shift of everything in image widths: a slow pan, in `hard` a faster one that shakes."""
    direction = rng.uniform(0.0, 2.0 * np.pi)
    reach = rng.uniform(0.0, 0.12 if hard else 0.025)
    pan = np.linspace(-0.5, 0.5, frames)[:, None] * reach * np.array([np.cos(direction), np.sin(direction)])
    shake = rng.normal(0.0, 0.008 if hard else 0.0, (frames, 2))
    return np.asarray(pan + shake)


def _draw_background(size: int, hard: bool, tones: _Tones, rng: np.random.Generator) -> np.ndarray:
    """float32 (G, G, 3), 0 to 1: smooth noise of two scales about a grey, slightly tinted."""
    side = size + 2 * round(MARGIN * size)
    base = rng.uniform(*tones.ground)
    strength = 0.13 if hard else 0.02
    ground = np.full((side, side, 3), base, np.float32)
    for cells in (5, 14) if hard else (4, 9):
        noise = rng.normal(0.0, strength, (cells, cells, 1)) + rng.normal(0.0, strength / 3.0, (cells, cells, 3))
        ground += cv2.resize(noise.astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
    return ground


def _draw_pillar(x: float | None, camera: np.ndarray, tones: _Tones, rng: np.random.Generator) -> Pillar | None:
    """The pillar of `occlude`; in one clip out of three of the other motions, one that hides nothing."""
    present, place = rng.random() < 1.0 / 3.0, rng.uniform(0.38, 0.62)
    width = float(rng.uniform(0.24, 0.34))
    grey = float(rng.uniform(*tones.pillar))
    if x is None and not present:
        return None
    return Pillar(camera[:, 0] + (place if x is None else x), width, grey, front=x is not None)
