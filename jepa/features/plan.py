"""Which windows of which videos are extracted, in order: a pure function of the source and the settings.

Nothing is decoded for it. Shard k of an extraction holds the windows k * rows to (k + 1) * rows - 1 of this list,
whatever happened before, so a rerun needs only to know which shards are there.
"""

from dataclasses import dataclass, replace

from jepa.checkpoints.load import FrozenEncoder
from jepa.data.source import Source
from jepa.data.windows import Short, WindowConfig, centre_window, tile_windows
from jepa.errors import DataError
from jepa.features.writers import IndexRow


@dataclass(frozen=True)
class Skipped:
    """A video without features."""

    key: str
    path: str
    why: str


@dataclass(frozen=True)
class Plan:
    """All windows of an extraction, in order."""

    rows: tuple[IndexRow, ...]
    owners: tuple[int, ...]
    """Number of each window's video in the source."""
    windows: tuple[tuple[int, ...], ...]
    skipped: tuple[Skipped, ...]


def window_of(encoder: FrozenEncoder, stride: int | None = None, short: Short | None = None) -> WindowConfig:
    """The clips the encoder was trained on, or as many frames at another stride, or with other care of short videos."""
    own = WindowConfig.of_facts(encoder.config.frames, encoder.facts.get("clip", {}))
    # A given stride is meant to count: it switches off a frame rate from pretraining.
    window = own if stride is None else replace(own, stride=stride, fps=None)
    return replace(window, short=short or own.short)


def make_plan(source: Source, window: WindowConfig, *, tiles: bool) -> Plan:
    """The windows of every video; those too short for one are listed as skipped, unless the window pads them."""
    rows, owners, windows, skipped = [], [], [], []
    for index in range(len(source)):
        info = source.info(index)
        try:
            cuts = tile_windows(info, window) if tiles else [centre_window(info, window)]
        except DataError as error:
            why = str(error).partition(":")[0]  # the rest advises on settings of pretraining
            skipped.append(Skipped(info.key, info.origin or source.name, why))
            continue
        path = info.origin or source.name
        for frames in cuts:
            start, end = frames[0], frames[-1] + 1
            rows.append(IndexRow(info.key, path, start, end, start / info.fps, end / info.fps))
            owners.append(index)
            windows.append(tuple(frames))
    return Plan(tuple(rows), tuple(owners), tuple(windows), tuple(skipped))
