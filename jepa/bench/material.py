"""Videos to measure on: the same ones as they are found, and as `jepa pack` stores them.

Without videos of the user's own, films are made: 1280 x 720, H.264 with a keyframe every 250 frames, as cameras and
sharing sites write them. Pictures of real scenes have a power spectrum that falls with the square of the frequency;
so has the texture here, over which a camera pans and zooms while patches of other textures move across it, with the
noise of a sensor on top. Bit rates (3 to 4 Mbit/s) and decoding costs are then those of real films of that size. They
are no real films: `--data` measures on those.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.stream import VideoStream

from jepa.data.pack import PackConfig, pack_video
from jepa.data.shard_writer import ShardWriter
from jepa.data.shards import ShardSource
from jepa.data.source import Source, open_source
from jepa.errors import DataError
from jepa.logs import get_logger, progress
from jepa.rng import generator

log = get_logger(__name__)

UNPACKED, PACKED = "unpacked", "packed"
SENSOR_NOISE = 1.5
"""Standard deviation, of 255."""


@dataclass(frozen=True)
class FilmConfig:
    """Films that are made."""

    count: int = 6
    frames: int = 240
    height: int = 720
    width: int = 1280
    rate: int = 30
    keyframe_interval: int = 250
    crf: int = 23


@dataclass(frozen=True)
class Material:
    """One set of videos."""

    name: str
    source: Source
    files: tuple[Path, ...]
    """The same videos as plain files, in the order of the source."""


def prepare(data: Path | None, seed: int, folder: Path, films: FilmConfig | None = None) -> list[Material]:
    """The videos of `data`, or films made for the purpose: unpacked, and packed. Of shards there is one kind only.

    Args:
        folder: an empty one; what is made lies there.

    Raises:
        DataError: there are no videos, or none that every decoder reads alike.
    """
    if data is None:
        made = make_films(folder / "films", films or FilmConfig(), seed)
        return _both(open_source(folder / "films", None), made, folder)
    source = open_source(data)
    good = [index for index in range(len(source)) if source.info(index).exact]
    if not good:
        raise DataError(f"{data}: no video that every decoder reads alike (H.264 and the like, with clean timestamps)")
    if isinstance(source, ShardSource):
        if len(good) < len(source):
            bad = next(index for index in range(len(source)) if index not in set(good))
            raise DataError(f"{data}: decoders do not read {source.info(bad).key} alike, so they cannot be compared")
        return [Material(PACKED, source, _as_files(source, folder / "packed-files"))]
    if len(good) < len(source):
        left = len(source) - len(good)
        log.warning("%d of %d videos are left out: not every decoder reads them alike", left, len(source))
    return _both(source, _as_files(source, folder / "files", good), folder)


def _both(source: Source, files: Sequence[Path], folder: Path) -> list[Material]:
    unpacked = open_source(files[0].parent, None)
    shards = folder / "shards"
    with ShardWriter(shards, name=source.name) as writer:
        for number, file in enumerate(progress(files, "packing")):
            packed = pack_video(file, PackConfig())
            writer.write(f"{number:06d}", packed.video, packed.info, {})
    packed_source = open_source(shards, None)
    return [
        Material(UNPACKED, unpacked, tuple(files)),
        Material(PACKED, packed_source, _as_files(packed_source, folder / "packed-files")),
    ]


def _as_files(source: Source, folder: Path, indices: Sequence[int] | None = None) -> tuple[Path, ...]:
    """The videos of a source as files, named by number: other loaders know no shards, and stumble over blanks."""
    folder.mkdir()
    files = []
    for number, index in enumerate(range(len(source)) if indices is None else indices):
        files.append(folder / f"{number:06d}.mp4")
        files[-1].write_bytes(source.read(index))
    return tuple(files)


def make_films(folder: Path, config: FilmConfig, seed: int) -> tuple[Path, ...]:
    """Write the films; each is a function of (config, seed, number)."""
    folder.mkdir()
    files = tuple(folder / f"{number:06d}.mp4" for number in range(config.count))
    for number, file in enumerate(progress(files, "making films")):
        _write_film(file, config, generator(seed, number, "bench/film"))
    return files


def _write_film(file: Path, config: FilmConfig, rng: np.random.Generator) -> None:
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(config.rate))
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = config.width, config.height, "yuv420p"
        stream.codec_context.thread_count = 1
        stream.options = {
            "preset": "veryfast",
            "crf": str(config.crf),
            "x264-params": f"keyint={config.keyframe_interval}:threads=1",
        }
        world = _world(config, rng)
        for number in range(config.frames):
            frame_HWC = _picture(world, config, number / config.rate, rng)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame_HWC, format="rgb24")))
        container.mux(stream.encode(None))


@dataclass(frozen=True)
class _Patch:
    """A disc of another texture that swings across the world."""

    texture_HWC: np.ndarray
    disc_HW1: np.ndarray
    """Where it is not transparent."""
    radius: int
    centre: np.ndarray
    reach: np.ndarray
    """(2,): how far it goes, x and y."""
    speed: np.ndarray
    """(2,): radians per second."""


@dataclass(frozen=True)
class _World:
    """What is filmed."""

    texture_HWC: np.ndarray
    patches: tuple[_Patch, ...]
    noise_HW1: np.ndarray
    """Standard normal, larger than a picture: each takes another part of it."""


def _world(config: FilmConfig, rng: np.random.Generator) -> _World:
    height, width = config.height * 3 // 2, config.width * 3 // 2
    patches = []
    for _ in range(4):
        radius = int(config.height * rng.uniform(0.08, 0.2))
        across = np.arange(-radius, radius)
        disc_HW1 = (np.hypot(across[:, None], across) < radius)[..., None]
        centre = np.array([width, height]) * rng.uniform(0.3, 0.7, 2)
        reach, speed = config.height * rng.uniform(0.1, 0.2, 2), rng.uniform(0.5, 2.0, 2)
        patches.append(_Patch(_texture(2 * radius, 2 * radius, rng), disc_HW1, radius, centre, reach, speed))
    return _World(_texture(height, width, rng), tuple(patches), rng.standard_normal((height, width, 1), np.float32))


def _texture(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """uint8 (H, W, 3): amplitudes fall as 1 / frequency, as in pictures of real scenes; mostly grey."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None] * height, np.fft.rfftfreq(width) * width)
    planes = []
    for weight in (1.0, 0.3, 0.3, 0.3):
        spectrum = np.fft.rfft2(rng.standard_normal((height, width))) / np.maximum(frequency, 1)
        plane = np.fft.irfft2(spectrum, (height, width))
        planes.append(weight * plane / plane.std())
    grey, *colours = planes
    return np.stack([np.clip(118 + 45 * (grey + colour), 0, 255) for colour in colours], -1).astype(np.uint8)


def _picture(world: _World, config: FilmConfig, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """What the camera sees: it pans along a curve and breathes in and out, by parts of pixels."""
    scene = world.texture_HWC.copy()
    for patch in world.patches:
        x, y = (patch.centre + patch.reach * np.sin(patch.speed * seconds)).astype(int)
        place = scene[y - patch.radius : y + patch.radius, x - patch.radius : x + patch.radius]
        np.copyto(place, patch.texture_HWC, where=patch.disc_HW1)
    zoom, room = 1 + 0.05 * np.sin(0.7 * seconds), np.array(scene.shape[1::-1])
    spare = room - zoom * np.array([config.width, config.height])
    left, top = spare * (0.5 + 0.4 * np.sin(np.array([0.31, 0.23]) * seconds))
    view = np.array([[zoom, 0, left], [0, zoom, top]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    picture_HWC = cv2.warpAffine(scene, view, (config.width, config.height), flags=flags)
    column, row = rng.integers(room - np.array([config.width, config.height]))
    noise_HW1 = world.noise_HW1[row : row + config.height, column : column + config.width]
    return np.clip(picture_HWC + SENSOR_NOISE * noise_HW1, 0, 255).astype(np.uint8)
