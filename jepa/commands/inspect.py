"""Shows what a data set holds: its samples as a table, histograms of length, rate, size and labels as text, and, as a
picture, a contact sheet of samples whose labels differ most. Of all this only the sheet decodes anything.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from jepa.data.decode import decode
from jepa.data.index import atomic
from jepa.data.source import SampleInfo, Source, open_source, printable, split_folders
from jepa.data.survey import Bar, Survey, duration, survey
from jepa.errors import ConfigError, DataError
from jepa.logs import get_logger
from jepa.viz.contact import png, spaced, varied
from jepa.viz.samples import CELL, SheetRow, sample_sheet

SUMMARY = "Show what a data set holds: samples, histograms, a contact sheet"
EXAMPLE = "jepa inspect shards/mine --sheet sheet.png"
POSITIONAL = ("data",)

CANDIDATES = 200
"""Samples among which those of the sheet are chosen."""
WIDTH = 40
"""Letters of the longest bar."""

log = get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Config:
    data: Path
    """Shards, or a plain folder of videos."""
    split: str | None = None
    """Part of the data to show, where it has parts; all of them when none."""
    rows: int = 10
    """Samples in the table, evenly spaced."""
    samples: int = 100_000
    """Samples that the histograms count, at most; evenly spaced."""
    sheet: Path | None = None
    """Write a contact sheet to this PNG file."""
    sheet_rows: int = 12
    """Samples on the sheet."""
    sheet_frames: int = 8
    """Frames of each sample on the sheet, evenly spaced."""
    json: bool = False
    """Print the result as JSON."""

    def __post_init__(self) -> None:
        for name, least in (("rows", 0), ("samples", 1), ("sheet_rows", 1), ("sheet_frames", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected {least} or more")
        if self.sheet is not None and self.sheet.suffix.lower() != ".png":
            raise ConfigError(f"sheet is {self.sheet}, expected a file that ends with .png")


def run(config: Config) -> int:
    """Print the table and the histograms, write the sheet."""
    sources = _sources(config)
    surveys = {name: survey(source, config.samples) for name, source in sources.items()}
    if config.sheet is not None:
        _write_sheet(config, config.sheet, list(sources.values()))
    if config.json:
        print(json.dumps({"data": str(config.data), "parts": _records(config, sources, surveys)}, indent=2))
    else:
        for name, source in sources.items():
            print("\n".join(_page(name, source, surveys[name], config.rows)))
    return 0


def _sources(config: Config) -> dict[str, Source]:
    """Part -> data set; the part of a data set without parts is ""."""
    folder = config.data.expanduser()
    splits = sorted(split_folders(folder))
    if config.split is not None and config.split not in splits:
        have = f"it has {', '.join(splits)}" if splits else "it has no parts"
        raise ConfigError(f"--split {config.split}: {printable(folder)} has no such part; {have}")
    wanted = [config.split] if config.split is not None else splits
    return {name: open_source(folder, name) for name in wanted} or {"": open_source(folder, None)}


def _records(config: Config, sources: dict[str, Source], surveys: dict[str, Survey]) -> list[dict[str, object]]:
    parts = []
    for name, source in sources.items():
        shown = [source.info(number) for number in spaced(len(source), config.rows)]
        rows = [{**asdict(info), "labels": dict(info.labels), "seconds": round(duration(info), 3)} for info in shown]
        parts.append({"part": name or None, **asdict(surveys[name]), "rows": rows})
    return parts


def _page(part: str, source: Source, facts: Survey, rows: int) -> Iterator[str]:
    """The lines about one data set."""
    of = "" if facts.surveyed == facts.samples else f" (counted over {facts.surveyed} of them, evenly spaced)"
    title = f"{facts.name}{f' ({part})' if part else ''}"
    yield f"{printable(title)}: {facts.samples} samples, {facts.frames} frames, {facts.seconds / 60:.1f} minutes{of}"
    if rows:
        yield ""
        yield from _table([source.info(number) for number in spaced(len(source), rows)])
    yield from _histogram("duration, s", facts.duration)
    yield from _histogram("frames per second", facts.rate)
    yield from _histogram("size", facts.size)
    for name, bars in facts.labels.items():
        yield from _histogram(name, bars)
    if facts.unlabelled:
        yield f"\n{facts.unlabelled} samples have no label"
    yield ""


def _table(infos: Sequence[SampleInfo]) -> Iterator[str]:
    cells = [("key", "frames", "fps", "s", "size", "labels")]
    for info in infos:
        labels = ", ".join(f"{name}={value}" for name, value in info.labels.items())
        size = f"{info.width}x{info.height}"
        cells.append(
            (printable(info.key), str(info.frames), f"{info.fps:g}", f"{duration(info):.2f}", size, printable(labels))
        )
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    for row in cells:
        numbers = "  ".join(text.rjust(width) for text, width in zip(row[1:5], widths[1:5], strict=True))
        yield f"{row[0]:{widths[0]}}  {numbers}  {row[5]}".rstrip()


def _histogram(title: str, bars: Sequence[Bar]) -> Iterator[str]:
    if not bars:
        return
    names, most = [printable(bar.name) for bar in bars], max(bar.count for bar in bars)
    width, digits = max(map(len, names)), len(str(most))
    yield f"\n{printable(title)}"
    for name, bar in zip(names, bars, strict=True):
        # What is there shall be seen, however rare.
        length = max(1, round(WIDTH * bar.count / most)) if bar.count else 0
        yield f"  {name:>{width}}  {bar.count:{digits}}  {'#' * length}".rstrip()


def _write_sheet(config: Config, path: Path, sources: Sequence[Source]) -> None:
    share = -(-config.sheet_rows // len(sources))
    rows = [row for source in sources for row in _sheet_rows(source, share, config.sheet_frames)]
    with atomic(path) as stream:
        stream.write(png(sample_sheet(rows[: config.sheet_rows])))
    log.info("contact sheet: %s", path)


def _sheet_rows(source: Source, most: int, frames: int) -> Iterator[SheetRow]:
    numbers = spaced(len(source), CANDIDATES)
    infos = [source.info(number) for number in numbers]
    names = _telling(infos)
    labels = [tuple(f"{name} {info.labels[name]}" for name in names if name in info.labels) for info in infos]
    for place in varied(labels, most):
        info = infos[place]
        lines = (info.key, *labels[place][:2], f"{info.width}x{info.height}, {info.frames} frames")
        try:
            shown = decode(
                source.read(numbers[place]), spaced(info.frames, frames), short_side=max(CELL), name=info.key
            )
            yield SheetRow(lines, shown)
        except DataError as error:
            log.warning("not on the sheet: %s", error)
            yield SheetRow((*lines, "cannot be decoded"), None)


def _telling(infos: Sequence[SampleInfo]) -> list[str]:
    """Names of the labels, those with many different values first; numbers tell least."""

    def rank(name: str) -> tuple[int, int, str]:
        values = {info.labels[name] for info in infos if name in info.labels}
        return -any(isinstance(value, str) for value in values), -len(values), name

    return sorted({name for info in infos for name in info.labels}, key=rank)
