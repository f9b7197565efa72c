"""Measures, beside something to compare with. `jepa bench data`: the loader beside bare decoders, the reader alone and
(with the extra `bench`) the official loader, on the same videos, unpacked and packed. `jepa bench manifest`: opening
and reading a data set of ten million samples. Figures are those of this machine; docs/benchmarks.md tells their limits.
"""

import dataclasses
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from jepa.errors import ConfigError

SUMMARY = "Measure the loader beside bare decoders and the official loader, or a manifest of ten million samples"
EXAMPLE = "jepa bench data --clips 24"
POSITIONAL = ("what",)


@dataclass(frozen=True, kw_only=True)
class Config:
    what: Literal["data", "manifest"]
    """What to measure: data (the loader), manifest (the index of a large data set)."""
    data: Path | None = None
    """Videos (a folder, packed for the occasion, or shards); none: films of 1280x720 are made, in a minute or two."""
    clips: int = 24
    """Clips that each row reads in a round."""
    rounds: int = 5
    """Rounds, after one that is not counted; every row once in each."""
    workers: int = 2
    """Processes of the rows with worker processes; 0 leaves these rows out."""
    frames: int = 16
    """Frames of a clip."""
    stride: int = 4
    """Take every n-th frame of the video."""
    size: int = 224
    """Height and width of a clip in pixels."""
    samples: int = 10_000_000
    """Samples of the manifest."""
    folder: Path | None = None
    """Folder of the manifest, kept and found again by the next run; none: a temporary one."""
    seed: int = 0
    """Decides the films, the clips and the crops."""
    json: bool = False
    """Print the result as JSON."""

    def __post_init__(self) -> None:
        for name, least in (("clips", 1), ("rounds", 1), ("workers", 0), ("frames", 1), ("stride", 1), ("samples", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected {least} or more")


def run(config: Config) -> int:
    """Measure, and print a table."""
    with tempfile.TemporaryDirectory(prefix="jepa-bench-") as folder:
        result = _data(config, Path(folder)) if config.what == "data" else _manifest(config, Path(folder))
    if config.json:
        print(json.dumps(facts_of(result), indent=2))
    elif config.what == "data":
        print(_tables(result, config))
    else:
        print(facts_table(facts_of(result)))
    return 0


def _manifest(config: Config, folder: Path) -> Any:
    return import_module("jepa.bench.manifest").measure(config.samples, config.folder or folder)


def _data(config: Config, folder: Path) -> Any:
    import torch

    from jepa.bench.data import measure
    from jepa.bench.loaders import Work
    from jepa.bench.material import prepare
    from jepa.data.windows import WindowConfig

    torch.set_num_threads(1)
    window = WindowConfig(config.frames, config.stride)
    batch = batch_size(config.clips, config.clips)
    _ = Work(window, config.size, batch, 0, 1, config.seed).grid  # raises before the films are made
    materials = prepare(config.data, config.seed, folder, least_frames=(config.frames - 1) * config.stride + 1)
    batch = batch_size(config.clips, min(len(material.source) for material in materials))
    work = Work(window, config.size, batch, config.workers, config.clips // batch, config.seed)
    return measure(materials, work, config.workers, config.rounds, folder)


def batch_size(clips: int, most: int) -> int:
    """The largest number up to 8 (and up to the number of videos) that divides the clips of a round."""
    return next(size for size in range(min(8, most), 0, -1) if clips % size == 0)


def _tables(report: Any, config: Config) -> str:
    rows = [["videos", "row", "clips/s per core", "clips/s", "of the bare decoder", "of the official loader"]]
    for figure in report.figures:
        rows.append(
            [
                figure.group, figure.name, spread(figure.per_core), f"{figure.per_second.median:.4g}",
                spread(figure.of_bare), spread(figure.of_official),
            ]
        )  # fmt: skip
    lines = [f"{name}: {text}" for name, text in report.material.items()]
    lines += [", ".join(f"{name} {value}" for name, value in report.machine.items())]
    lines += [
        f"{config.clips} clips of {config.frames} frames at stride {config.stride}, to {config.size}x{config.size}; "
        f"median (lowest to highest) of {config.rounds} rounds; files in the page cache; seed {config.seed}"
    ]
    return "\n".join([*table(rows), "", *lines, *report.notes])


def spread(value: Any) -> str:
    """Median and extremes, to three digits."""
    if value is None:
        return "-"
    median, low, high = (f"{one:.0f}" if one >= 100 else f"{one:.3g}" for one in (value.median, value.low, value.high))
    return f"{median} ({low} to {high})"


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines of Markdown, aligned; the first one is the heading."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


def facts_of(result: Any) -> dict[str, Any]:
    """Fields of a dataclass, with what it derives from them."""
    derived = [name for name, value in vars(type(result)).items() if isinstance(value, property)]
    return dataclasses.asdict(result) | {name: getattr(result, name) for name in derived}


def facts_table(facts: Mapping[str, Any]) -> str:
    """A line for each fact."""
    return "\n".join(table([["figure", "value"], *([name.replace("_", " "), _shown(facts[name])] for name in facts)]))


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, tuple | list):
        return ", ".join(map(_shown, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
