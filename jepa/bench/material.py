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
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from jepa.data.pack import PackConfig, pack_video
from jepa.data.shard_writer import ShardWriter
from jepa.data.shards import ShardSource
from jepa.data.source import SampleInfo, Source, open_source
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
    frames: int = 150
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


def prepare(data: Path | None, seed: int, folder: Path, least_frames: int) -> list[Material]:
    """The videos of `data`, or films made for the purpose: unpacked, and packed. Of shards there is one kind only.

    Videos that decoders read differently, or that are too short, are left out with a warning.

    Args:
        folder: an empty one; what is made lies there.
        least_frames: that a clip spans.

    Raises:
        DataError: there are no videos that can be used, or shards with some that cannot.
    """
    if data is None:
        films = FilmConfig(frames=max(FilmConfig.frames, least_frames))
        return _both(make_films(folder / "films", films, seed), "films", folder)
    source = open_source(data)
    reasons = [_reason(source.info(index), least_frames) for index in range(len(source))]
    bad = [f"{source.info(index).key}: {reason}" for index, reason in enumerate(reasons) if reason]
    if len(bad) == len(source) or (bad and isinstance(source, ShardSource)):
        raise DataError(f"{data}: {len(bad)} of {len(source)} videos cannot be used; the first: {bad[0]}")
    if isinstance(source, ShardSource):
        return [Material(PACKED, source, _as_files(source, range(len(source)), folder / "packed-files"))]
    if bad:
        log.warning("%d of %d videos are left out; the first: %s", len(bad), len(source), bad[0])
    good = [index for index, reason in enumerate(reasons) if not reason]
    return _both(_as_files(source, good, folder / "files"), source.name, folder)


def _reason(info: SampleInfo, least_frames: int) -> str | None:
    """Why a video cannot be used, if it cannot."""
    if not info.exact:
        return "decoders read it differently (they are compared on H.264 and the like, with clean timestamps)"
    if info.frames < least_frames:
        return f"{info.frames} frames, a clip spans {least_frames}: lower --frames or --stride"
    return None


def _both(files: Sequence[Path], name: str, folder: Path) -> list[Material]:
    unpacked, shards = open_source(files[0].parent, None), folder / "shards"
    with ShardWriter(shards, name=name) as writer:
        for number, file in enumerate(progress(files, "packing")):
            packed = pack_video(file, PackConfig())
            writer.write(f"{number:06d}", packed.video, packed.info, {})
    source = open_source(shards, None)
    packed_files = _as_files(source, range(len(source)), folder / "packed-files")
    return [Material(UNPACKED, unpacked, tuple(files)), Material(PACKED, source, packed_files)]


def _as_files(source: Source, indices: Sequence[int], folder: Path) -> tuple[Path, ...]:
    """Videos of a source as files, named by number: other loaders know no shards, and stumble over blanks in names."""
    folder.mkdir()
    files = [folder / f"{number:06d}.mp4" for number in range(len(indices))]
    for file, index in zip(files, indices, strict=True):
        file.write_bytes(source.read(index))
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
            # Looking ahead, x264 makes other bytes of the same pictures each time.
            "x264-params": f"keyint={config.keyframe_interval}:threads=1:rc-lookahead=0:sync-lookahead=0",
        }
        world, converter = _world(config, rng), VideoReformatter()
        for number in range(config.frames):
            frame_HWC = _picture(world, config, number / config.rate, rng)
            picture = converter.reformat(av.VideoFrame.from_ndarray(frame_HWC, format="rgb24"), format="yuv420p")
            picture.pts, picture.time_base = number, Fraction(1, config.rate)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


@dataclass(frozen=True)
class _Patch:
    """A disc of another texture that swings across the world."""

    texture: np.ndarray
    """uint8 (H, W, 3)."""
    disc: np.ndarray
    """bool (H, W, 1): where it is not transparent."""
    radius: int
    centre: np.ndarray
    reach: np.ndarray
    """(2,): how far it goes, x and y."""
    speed: np.ndarray
    """(2,): radians per second."""


@dataclass(frozen=True)
class _World:
    """What is filmed."""

    texture: np.ndarray
    """uint8 (H, W, 3)."""
    patches: tuple[_Patch, ...]
    noise: np.ndarray
    """(H, W, 1), standard normal, larger than a picture: each takes another part of it."""


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
    scene = world.texture.copy()
    for patch in world.patches:
        x, y = (patch.centre + patch.reach * np.sin(patch.speed * seconds)).astype(int)
        place = scene[y - patch.radius : y + patch.radius, x - patch.radius : x + patch.radius]
        np.copyto(place, patch.texture, where=patch.disc)
    zoom, room = 1 + 0.05 * np.sin(0.7 * seconds), np.array(scene.shape[1::-1])
    spare = room - zoom * np.array([config.width, config.height])
    left, top = spare * (0.5 + 0.4 * np.sin(np.array([0.31, 0.23]) * seconds))
    view = np.array([[zoom, 0, left], [0, zoom, top]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    picture_HWC = cv2.warpAffine(scene, view, (config.width, config.height), flags=flags)
    column, row = rng.integers(room - np.array([config.width, config.height]))
    noise_HW1 = world.noise[row : row + config.height, column : column + config.width]
    return np.clip(picture_HWC + SENSOR_NOISE * noise_HW1, 0, 255).astype(np.uint8)
