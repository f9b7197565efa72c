"""The loader beside bare decoders and the official loader, on the same videos, in one run.

Rows of a group read the same files. `reading` is the reader alone: bytes by offset, checksum, no decoding. `bare NAME`
is the decoder alone (`bare.py`). `loader NAME` is everything that training does in the same process with that decoder,
and `loader, N workers` the same in worker processes; `official` as in `official.py`. Where a bare decoder returns
frames as they are in the file, the loader also reads and checks the file, shrinks the frames, crops, resizes, mirrors,
stacks them by channel and draws the masks of the step: what it reaches of the bare decoder is what all of that leaves.
"""

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import get_args

from jepa.bench.bare import bare_decoders
from jepa.bench.laps import Contender, Lap, Spread, per_core, per_second, race, ratio
from jepa.bench.loaders import Work, decoding_lap, drawn_clips, loader_lap, reading_lap
from jepa.bench.material import UNPACKED, Material
from jepa.bench.official import OfficialLoader
from jepa.bench.official import missing as official_missing
from jepa.data.decode import Backend, backends
from jepa.data.draws import Draw

DISTRIBUTIONS = ("decord", "av", "torchcodec", "torch", "opencv-python-headless", "cc-vjepa2")


@dataclass(frozen=True)
class Figure:
    """One row of the table."""

    group: str
    name: str
    per_core: Spread
    """Clips per second of processor time."""
    per_second: Spread
    """Clips per second by the clock."""
    of_bare: Spread | None
    """Clips per core, as a multiple of those of the bare decoder on the same files."""
    of_official: Spread | None
    """Clips per core, as a multiple of those of the official loader on the unpacked files."""


@dataclass(frozen=True)
class Report:
    """What was measured, on what."""

    figures: tuple[Figure, ...]
    material: Mapping[str, str]
    """Group -> its videos in words."""
    machine: Mapping[str, str]
    notes: tuple[str, ...]
    """What is missing, and why."""


def measure(materials: Sequence[Material], work: Work, workers: int, rounds: int, folder: Path) -> Report:
    """Measure every contender on every material.

    Args:
        workers: of the rows with worker processes; 0 for none.
        folder: for the lists of the official loader.
    """
    notes = [f"without the official loader: {why}"] if (why := official_missing()) else []
    bare = bare_decoders()
    notes += [f"without {name}: not installed, or its libraries are missing" for name in _decoders() - bare.keys()]
    lists = {material.name: drawn_clips(material.source, work) for material in materials}
    contenders: list[Contender] = []
    # Workers of the official loader are forked: before anything else has decoded in this process.
    for material in materials if not why else ():
        contenders += _official(material, lists[material.name], work, workers, folder)
    for material in materials:
        contenders += _ours(material, lists[material.name], work, workers)
    laps = race(contenders, rounds)
    figures = [_figure(contender, mine, contenders, laps) for contender, mine in zip(contenders, laps, strict=True)]
    groups = [material.name for material in materials]
    figures.sort(key=lambda figure: (groups.index(figure.group), figure.name.startswith("official")))
    described = {material.name: describe(material) for material in materials}
    return Report(tuple(figures), described, machine(), tuple(notes))


def _decoders() -> set[str]:
    return set(get_args(Backend)) - {"auto"}


def _official(material: Material, clips: Sequence[Draw], work: Work, workers: int, folder: Path) -> list[Contender]:
    kinds = {"official": 0} | ({f"official, {workers} workers": workers} if workers else {})
    found = []
    for name, count in sorted(kinds.items(), key=lambda kind: -kind[1]):
        loader = OfficialLoader(material.files, clips, work, count, folder)
        found.append(Contender(material.name, name, loader.lap, _preferred()))
    return found[::-1]


def _preferred() -> str:
    """The bare decoder that stands for all: decord, which the official loader uses too, where there is one."""
    return "bare decord" if "decord" in bare_decoders() else "bare pyav"


def _ours(material: Material, clips: Sequence[Draw], work: Work, workers: int) -> list[Contender]:
    source, group = material.source, material.name
    found = [Contender(group, "reading", partial(reading_lap, source, clips))]
    for name, prepare in bare_decoders().items():
        reads = [prepare(source.read(clip.index), clip.window) for clip in clips]
        found.append(Contender(group, f"bare {name}", partial(decoding_lap, reads), f"bare {name}"))
    installed: list[Backend] = [name for name in get_args(Backend) if backends().get(name) is not None]
    for backend in installed:
        bare = f"bare {backend}" if backend in bare_decoders() else None
        found.append(Contender(group, f"loader {backend}", partial(loader_lap, source, work, backend, 0), bare))
    if workers:
        lap = partial(loader_lap, source, work, "auto", workers)
        found.append(Contender(group, f"loader, {workers} workers", lap, _preferred()))
    return found


def _figure(
    contender: Contender, laps: list[Lap], contenders: Sequence[Contender], all_laps: list[list[Lap]]
) -> Figure:
    by_name = {(other.group, other.name): found for other, found in zip(contenders, all_laps, strict=True)}
    bare = by_name.get((contender.group, contender.bare or ""))
    official = by_name.get((UNPACKED, "official")) or by_name.get((contender.group, "official"))
    decodes = contender.name != "reading"
    return Figure(
        contender.group, contender.name, per_core(laps), per_second(laps),
        ratio(laps, bare) if bare else None,
        ratio(laps, official) if official and decodes else None,
    )  # fmt: skip


def describe(material: Material) -> str:
    """The videos in words."""
    infos = [material.source.info(index) for index in range(len(material.source))]
    seconds = sum(info.frames / info.fps for info in infos)
    sizes = " and ".join(f"{width}x{height}" for width, height in sorted({(info.width, info.height) for info in infos}))
    rate = sum(file.stat().st_size for file in material.files) * 8 / seconds / 1e6
    count = "1 video" if len(infos) == 1 else f"{len(infos)} videos"
    return f"{count}, {sum(info.frames for info in infos)} frames of {sizes}, {seconds:.0f} s, {rate:.2f} Mbit/s"


def machine() -> dict[str, str]:
    """What the figures depend on beside the program."""
    found = {"processor": _processor(), "cores": str(os.cpu_count()), "python": platform.python_version()}
    for name in DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
