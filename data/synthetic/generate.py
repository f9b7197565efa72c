"""A synthetic data set on disk: OUT/train and OUT/test, shards of real H.264 files.

Clips are made by any number of processes and written in order of their index by this one, so the bytes do
not depend on `workers`. Shards are built in a hidden folder inside OUT and moved into place when all of
them are whole; `world.json`, written last, says what the data set was made from. Made twice with the same
arguments, a data set is made once: the second call finds that file and does nothing. What a killed run left, and
a data set with a damaged shard, is made again and then replaced; files that are not its own are never touched.

Members of a sample: KEY.mp4, KEY.json (labels) and KEY.masks.npz with `instances` uint8 (T, H, W)
(0 background, 1 main body, ...) and `positions` float32 (T, bodies, 2), x and y in pixels.
"""

import io
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np

from jepa.data.decode import VideoInfo
from jepa.data.index import read_manifest
from jepa.data.shard_writer import ShardWriter
from jepa.data.source import MANIFEST
from jepa.data.synthetic.shapes import Split
from jepa.data.synthetic.video import ENCODER, KEYFRAME_INTERVAL, encode_h264
from jepa.data.synthetic.world import WorldConfig, make_clip
from jepa.data.workers import Loader
from jepa.errors import ConfigError, DataError
from jepa.logs import get_logger, progress

RECIPE = "world.json"
"""Name of the file in OUT that says what the data set was made from."""
WORLD_VERSION = 1
"""Goes up whenever the same (config, seed, index, split) would give another clip."""
MADE_BY = "jepa synth"
"""How the manifests call this program."""

_PARTIAL = ".partial-"  # and the number of the process that works in the folder
_OWN_FILES = re.compile(r"manifest\.json|shard-\d+\.(tar|arrow)")
_CHUNK = 32  # clips per task of a worker
_CLIPS_PER_WORKER = 300  # fewer are made sooner than a process starts

log = get_logger(__name__)


@dataclass(frozen=True)
class Generated:
    """What `generate` left on disk."""

    out: Path
    train: int
    """Clips of the train split."""
    test: int
    """Clips of the test split."""
    created: bool
    """False: the same data set was there already."""


@dataclass(frozen=True)
class _Sample:
    key: str
    video: bytes
    labels: Mapping[str, str | int | float]
    masks: bytes


def generate(
    config: WorldConfig, out: Path, *, clips: int, test_fraction: float = 0.2, seed: int = 0, workers: int = 1
) -> Generated:
    """Make `clips` clips, `test_fraction` of them in the test split, with at most `workers` processes.

    Raises:
        ConfigError: numbers out of range, OUT cannot be written, or it holds something else.
    """
    test = _test_clips(clips, test_fraction)
    recipe: dict[str, object] = {"world_version": WORLD_VERSION, **asdict(config), "seed": seed}
    recipe |= {"train": clips - test, "test": test}
    found = _holds(out, recipe)
    result = Generated(out, clips - test, test, created=found != "all")
    if not result.created:
        log.info("%s holds this data set already: nothing to do", out)
        return result
    counts: dict[Split, int] = {"train": clips - test, "test": test}
    try:
        out.mkdir(parents=True, exist_ok=True)
        _remove_partials(out)
        with _partial(out) as folder:
            _write(config, folder, counts, seed, workers, recipe)
            if found == "remains":
                _set_aside(out, folder)
            for split in (split for split, count in counts.items() if count):
                (folder / split).replace(out / split)
            (folder / RECIPE).write_text(json.dumps(recipe, indent=2) + "\n", encoding="utf-8")
            (folder / RECIPE).replace(out / RECIPE)
    except OSError as error:
        raise ConfigError(
            f"--out {out}: cannot be written ({error.strerror or error}); choose another folder"
        ) from None
    return result


def _test_clips(clips: int, fraction: float) -> int:
    """Size of the test split."""
    if not 0.0 <= fraction < 1.0:
        raise ConfigError(f"test_fraction = {fraction}: expected 0 or more and less than 1")
    test = round(clips * fraction)
    if clips - test < 1 or (fraction > 0.0 and test < 1):
        raise ConfigError(f"clips = {clips} with test_fraction = {fraction} leaves a split empty; make more clips")
    return test


def _holds(out: Path, recipe: Mapping[str, object]) -> Literal["all", "remains", "nothing"]:
    """How much of this data set `out` holds; "remains" may be replaced. ConfigError if it holds anything else."""
    try:
        # Hidden folders of runs that were killed do not count as content.
        content = [path for path in out.iterdir() if not path.name.startswith(_PARTIAL)] if out.exists() else []
    except NotADirectoryError:
        raise ConfigError(f"--out {out}: is a file; choose a folder") from None
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be read ({error.strerror}); choose another folder") from None
    if not content:
        return "nothing"
    if all(_is_left_over(path, recipe) for path in content):
        _refuse_if_at_work(out)
        log.warning("%s holds what a stopped run left of this data set: making it again", out)
        return "remains"
    try:
        found = json.loads((out / RECIPE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise ConfigError(f"--out {out}: is not empty and no synthetic data set; choose another folder")
    if found != recipe:
        names = [name for name in recipe if found.get(name) != recipe[name]]
        differs = ", ".join(f"{name} {found.get(name)!r} instead of {recipe[name]!r}" for name in names)
        raise ConfigError(f"--out {out}: holds another synthetic data set ({differs}); choose another folder")
    for split in ("train", "test"):
        if recipe[split] and not (out / split / MANIFEST).is_file():
            raise ConfigError(f"--out {out}: its folder {split} is gone; remove the rest and make the data set again")
    return _whole(out, [split for split in ("train", "test") if recipe[split]])


def _whole(out: Path, splits: Sequence[str]) -> Literal["all", "remains"]:
    """Whether the shards have the sizes that they should have.

    Raises:
        ConfigError: they have not, and cannot be replaced because other files lie beside them.
    """
    try:
        for split in splits:
            read_manifest(out / split)
    except DataError as error:
        foreign = next((path for split in splits for path in (out / split).iterdir() if not _is_own(path)), None)
        if foreign is not None:
            raise ConfigError(f"--out {out}: {error}; move {foreign} away to have the data set made again") from None
        _refuse_if_at_work(out)
        log.warning("%s: making the data set again", error)
        return "remains"
    return "all"


def _is_left_over(folder: Path, recipe: Mapping[str, object]) -> bool:
    """Whether this is a split of this very data set and nothing else: a killed run leaves it without a recipe."""
    if folder.name not in ("train", "test") or not folder.is_dir() or not all(map(_is_own, folder.iterdir())):
        return False
    try:
        provenance = json.loads((folder / MANIFEST).read_bytes())["provenance"]
        return all(provenance[name] == value for name, value in {"made_by": MADE_BY, **recipe}.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _is_own(path: Path) -> bool:
    return _OWN_FILES.fullmatch(path.name) is not None


def _set_aside(out: Path, folder: Path) -> None:
    """Move what is to be replaced into the working folder, which is deleted. The recipe first: it vouches for the rest.

    Only what `_holds` has looked at comes here.
    """
    for name in (RECIPE, "train", "test"):
        if (out / name).exists():
            (out / name).replace(folder / f"old-{name}")


def _partials(out: Path) -> Iterator[tuple[Path, bool]]:
    """The working folders of other processes in `out`, and whether the process still runs."""
    for folder in out.glob(f"{_PARTIAL}*"):
        number = folder.name.removeprefix(_PARTIAL)
        if number.isdecimal() and int(number) != os.getpid():
            yield folder, _runs(int(number))


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it is of another user
        pass
    return True


def _refuse_if_at_work(out: Path) -> None:
    """ConfigError if another process makes a data set in `out`: what looks left over may be its own."""
    for folder, runs in _partials(out):
        if runs:
            raise ConfigError(f"--out {out}: another process makes a data set there; wait for it, or delete {folder}")


def _remove_partials(out: Path) -> None:
    """Delete the working folders of processes that were killed."""
    for folder, runs in list(_partials(out)):
        if not runs:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _partial(out: Path) -> Iterator[Path]:
    """A working folder inside `out`, so that moving its content is a rename; gone afterwards."""
    folder = out / f"{_PARTIAL}{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(
    config: WorldConfig,
    folder: Path,
    counts: Mapping[Split, int],
    seed: int,
    workers: int,
    recipe: Mapping[str, object],
) -> None:
    """All shards of all splits."""
    total = sum(counts.values())
    workers = min(workers, total // _CLIPS_PER_WORKER)
    with progress(None, "making clips", total) as bar:
        for split, count in counts.items():
            if not count:
                continue
            name = f"synthetic-{config.world}-{split}"
            provenance = {
                "made_by": MADE_BY,
                **recipe,
                "split": split,
                "encoder": ENCODER,
                "versions": _versions(),
            }
            with ShardWriter(folder / split, name=name, provenance=provenance) as writer:
                for sample in _samples(config, seed, split, count, workers):
                    writer.write(
                        sample.key, sample.video, video_info(config), sample.labels, {"masks.npz": sample.masks}
                    )
                    bar.advance()


def video_info(config: WorldConfig) -> VideoInfo:
    """The decode facts of every file of a data set, known without opening it."""
    return VideoInfo(
        frames=config.frames,
        fps=float(config.fps),
        height=config.size,
        width=config.size,
        duration=config.frames / config.fps,
        codec="h264",
        keyframes=tuple(range(0, config.frames, KEYFRAME_INTERVAL)),
        announced=config.frames,
        extension=ENCODER["container"],
        exact=True,
    )


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("pymunk", "opencv-python-headless", "av", "numpy")}


def _samples(config: WorldConfig, seed: int, split: Split, count: int, workers: int) -> Iterator[_Sample]:
    """All samples of a split in order of their index, a bounded number of them in flight."""
    chunks = range(-(-count // _CHUNK))
    loader = Loader(partial(_make, config, seed, split, count), chunks, workers=workers if workers > 1 else 0)
    for samples in loader:
        yield from samples


def _make(config: WorldConfig, seed: int, split: Split, count: int, chunk: int) -> list[_Sample]:
    """The work of one task: clips chunk * _CHUNK and on, `count` at most."""
    samples = []
    for index in range(chunk * _CHUNK, min((chunk + 1) * _CHUNK, count)):
        clip = make_clip(config, seed, index, split)
        masks = io.BytesIO()
        np.savez_compressed(masks, instances=clip.instances, positions=clip.positions)
        video = encode_h264(clip.frames, config.fps)
        samples.append(_Sample(f"{split}-{index:07d}", video, clip.labels, masks.getvalue()))
    return samples
