"""Says what this machine has, how fast it is, and what is missing.

What is required, and which extra brings the rest, is read from the metadata of the installed distribution, so this list
cannot drift away from setup.cfg. Everything heavy is imported inside functions: a broken or missing package
is a finding, not a crash. The speeds are guesses from a few training steps on random pixels, without any decoding.
"""

import importlib
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jepa.cores import cores
from jepa.version import __version__

if TYPE_CHECKING:
    from torch import Tensor

SUMMARY = "Versions, devices, decoders, disk, speed; what is missing and which extra brings it"
EXAMPLE = "jepa doctor --json"

DISTRIBUTION = "jepa-video"
SMALL_SHM = 1e9
"""Bytes of shared memory below which data workers are likely to fail."""
SMALL_DISK = 5e9
"""Bytes of free disk below which a warning is due."""


@dataclass(frozen=True)
class Config:
    """What `jepa doctor` does."""

    speed: bool = True
    """Measure how many clips a second this machine trains on; takes a few seconds."""
    json: bool = False
    """Print the findings as JSON."""


@dataclass(frozen=True)
class Package:
    """A requirement of this distribution, and what is installed of it."""

    name: str
    needed: str
    """Version specifier, e.g. `>=2.10`."""
    installed: str | None
    extra: str | None
    """The extra that brings it; None if it is required."""
    fits: bool
    """Installed, in a version that satisfies `needed`."""


@dataclass(frozen=True)
class Speed:
    """Training clips per second, guessed."""

    device: str
    model: str
    clips_per_second: float


@dataclass(frozen=True)
class Findings:
    """Everything that was found out."""

    system: dict[str, str]
    packages: list[Package]
    devices: list[str]
    decoders: dict[str, str | None]
    shm_bytes: int | None
    """Free bytes in /dev/shm; None where there is none."""
    disk_bytes: int
    """Free bytes in the current folder."""
    speeds: list[Speed] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    """Without these, jepa does not work."""
    advice: list[str] = field(default_factory=list)
    """What could be better."""


def run(config: Config) -> int:
    """Examine and print; 1 if something required is missing."""
    findings = examine(measure=config.speed)
    print(json.dumps({"ok": not findings.errors, **asdict(findings)}, indent=2) if config.json else as_text(findings))
    return 1 if findings.errors else 0


def examine(measure: bool) -> Findings:
    """Look at everything; `measure` also times a few training steps."""
    found = Findings(
        system={"jepa": __version__, "python": platform.python_version(), "platform": platform.platform()},
        packages=[],
        devices=[],
        decoders={},
        shm_bytes=_free("/dev/shm"),
        disk_bytes=_free(".") or 0,
    )
    _attempt("packages", lambda: found.packages.extend(packages()), found)
    _judge(found)
    if not found.packages:
        found.errors.append(f"{DISTRIBUTION} is not installed: run `pip install -e .` in its folder")
    _attempt("decoders", lambda: found.decoders.update(_decoders()), found)
    _attempt("devices", lambda: found.devices.extend(_devices()), found)
    if measure and not found.errors:
        _attempt("speed", lambda: found.speeds.extend(_speeds()), found)
    if found.decoders and not any(found.decoders.values()):
        found.errors.append("no video decoder is installed: run `pip install av`")
    if found.shm_bytes is not None and found.shm_bytes < SMALL_SHM:
        found.advice.append(
            f"/dev/shm has {_size(found.shm_bytes)} free: data workers hand batches over there; "
            "use --loader.workers 0, or give a container more (docker run --shm-size 8g)"
        )
    if found.disk_bytes < SMALL_DISK:
        found.advice.append(f"the current folder has {_size(found.disk_bytes)} free: write runs elsewhere (--out)")
    return found


def packages(distribution: str = DISTRIBUTION) -> Iterator[Package]:
    """The requirements of a distribution that apply to this machine, extras included; none if it is not installed."""
    from packaging.requirements import Requirement

    seen: set[str] = set()
    try:
        lines = metadata.requires(distribution) or []
        extras = metadata.metadata(distribution).get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:
        return
    for requirement in map(Requirement, lines):
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        extra = next((e for e in extras if requirement.marker and requirement.marker.evaluate({"extra": e})), None)
        if requirement.name in seen or (not applies and extra is None):
            continue
        seen.add(requirement.name)
        installed = _installed(requirement.name)
        fits = installed is not None and requirement.specifier.contains(installed, prereleases=True)
        needed = str(requirement.specifier)
        yield Package(requirement.name, needed, installed, None if applies else extra, fits)


def as_text(found: Findings) -> str:
    """The findings for people."""
    rows = [f"{name:14}{value}" for name, value in found.system.items()]
    rows += [f"{'device':14}{device}" for device in found.devices]
    rows += [f"{'decoder':14}{name} {version or 'not available'}" for name, version in found.decoders.items()]
    rows.append(f"{'/dev/shm':14}{'none' if found.shm_bytes is None else f'{_size(found.shm_bytes)} free'}")
    rows.append(f"{'disk':14}{_size(found.disk_bytes)} free in {Path.cwd()}")
    rows += [
        f"{'speed':14}about {s.clips_per_second:.1f} clips/s on {s.device} (a guess: {s.model})" for s in found.speeds
    ]
    rows.append("")
    for package in found.packages:
        state = package.installed or "not installed"
        origin = "required" if package.extra is None else f"extra '{package.extra}'"
        rows.append(f"{'' if package.fits else '!':2}{package.name:24}{state:18}{package.needed:12}{origin}")
    rows.append("")
    rows += [f"MISSING: {line}" for line in found.errors] + [f"advice: {line}" for line in found.advice]
    rows.append("something required is missing" if found.errors else "ready")
    return "\n".join(rows)


def _judge(found: Findings) -> None:
    """Turn what does not fit into errors, and into one piece of advice per extra."""
    incomplete: dict[str, list[str]] = {}
    for package in found.packages:
        if package.fits:
            continue
        state = "not installed" if package.installed is None else f"{package.installed} does not fit {package.needed}"
        if package.extra is None:
            found.errors.append(f"{package.name} ({state}): run `pip install '{package.name}{package.needed}'`")
        else:
            incomplete.setdefault(package.extra, []).append(f"{package.name} ({state})")
    for extra, names in incomplete.items():
        found.advice.append(f"{', '.join(names)}: `pip install '{DISTRIBUTION}[{extra}]'` brings what is missing")


def _attempt(what: str, action: Callable[[], None], found: Findings) -> None:
    """A part that cannot be examined is itself a finding."""
    try:
        action()
    except Exception as error:
        found.errors.append(f"{what}: {type(error).__name__}: {' '.join(str(error).split())}")


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _decoders() -> dict[str, str | None]:
    versions: dict[str, str | None] = importlib.import_module("jepa.data.decode").backends()
    return versions


def _devices() -> list[str]:
    import torch

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    devices = [f"CPU, {cores()} cores, {_size(memory)} memory, {torch.get_num_threads()} torch threads"]
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        devices.append(f"CUDA {number}: {properties.name}, {_size(properties.total_memory)}, CUDA {torch.version.cuda}")
    if torch.backends.mps.is_available():
        devices.append("MPS (Apple GPU)")
    return devices


def _speeds() -> list[Speed]:
    import torch

    speeds = [_speed("cpu", size="nano", patch=8, pixels=40, batch=16)]
    if torch.cuda.is_available():
        speeds.append(_speed("cuda", size="base", patch=16, pixels=224, batch=8))
    return speeds


def _speed(device: str, *, size: Any, patch: int, pixels: int, batch: int, frames: int = 16) -> Speed:
    """Time training steps on random pixels for about two seconds, after one to warm up."""
    import torch

    from jepa.masks.build import MaskSampler, MasksConfig
    from jepa.models.build import ModelConfig, build_jepa
    from jepa.objectives.latent import LatentPrediction
    from jepa.tokens import TokenGrid
    from jepa.types import ClipBatch

    model = ModelConfig(size=size, patch=patch)
    jepa = build_jepa(model, frames=frames, size=pixels).to(device)
    grid = TokenGrid.of_clip(frames, pixels, pixels, tubelet=model.tubelet, patch=patch)
    masks = MaskSampler(MasksConfig(), grid, 0)(0, batch)
    clips = torch.rand(batch, 3, frames, pixels, pixels)
    inputs = ClipBatch(clips, masks, grid, torch.arange(batch)).to(device)
    objective = LatentPrediction()

    def step() -> "Tensor":
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            loss = objective(jepa, inputs).loss
        loss.backward()
        return loss.detach().cpu()  # waits for the device

    step()
    started, steps = time.perf_counter(), 0
    while steps < 2 or (time.perf_counter() - started < 2 and steps < 20):
        step()
        steps += 1
    rate = steps * batch / (time.perf_counter() - started)
    return Speed(device, f"size {size}, {frames} frames of {pixels}x{pixels}, patch {patch}, batch {batch}", rate)


def _free(folder: str) -> int | None:
    return shutil.disk_usage(folder).free if Path(folder).is_dir() else None


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB"
