"""What a data set holds, in numbers: lengths, rates, sizes and labels of its videos, counted into a few bins.

A data set too large to look at every row is looked at in evenly spaced samples, and the number looked at is said.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from jepa.data.source import Label, SampleInfo, Source
from jepa.logs import progress

BINS = 10
"""Bars of a histogram of numbers, at most."""
MOST_VALUES = 20
"""Bars of a histogram of values, at most; the rarer ones share the last."""


@dataclass(frozen=True)
class Bar:
    """One bar of a histogram."""

    name: str
    count: int


@dataclass(frozen=True)
class Survey:
    """A data set in numbers."""

    name: str
    fingerprint: str
    samples: int
    surveyed: int
    """Samples that the rest is counted over."""
    frames: int
    seconds: float
    duration: tuple[Bar, ...]
    """Seconds of a video."""
    rate: tuple[Bar, ...]
    """Frames per second."""
    size: tuple[Bar, ...]
    """Width x height in pixels."""
    labels: dict[str, tuple[Bar, ...]]
    """Per label name."""
    unlabelled: int
    """Samples without any label."""


def survey(source: Source, most: int) -> Survey:
    """Look at the facts of at most `most` evenly spaced samples; nothing is decoded.

    Raises:
        DataError: an index is damaged.
    """
    count = len(source)
    numbers = range(count) if count <= most else np.linspace(0, count - 1, most).round().astype(int).tolist()
    infos = [source.info(number) for number in progress(numbers, f"looking at {source.name}")]
    seconds = [duration(info) for info in infos]
    names = sorted({name for info in infos for name in info.labels})
    return Survey(
        name=source.name,
        fingerprint=source.fingerprint,
        samples=count,
        surveyed=len(infos),
        frames=sum(info.frames for info in infos),
        seconds=round(sum(seconds), 3),
        duration=of_numbers(seconds),
        rate=of_numbers([info.fps for info in infos]),
        size=of_values([f"{info.width}x{info.height}" for info in infos]),
        labels={name: _of_labels([info.labels[name] for info in infos if name in info.labels]) for name in names},
        unlabelled=sum(not info.labels for info in infos),
    )


def duration(info: SampleInfo) -> float:
    """Seconds of a video; 0 if its rate is not known."""
    return info.frames / info.fps if info.fps > 0 else 0.0


def of_numbers(numbers: Sequence[float]) -> tuple[Bar, ...]:
    """A bar for each number if they are few different ones, else bins of equal width from the least to the largest."""
    rounded = [round(float(number), 3) for number in numbers]
    if len(set(rounded)) <= BINS:
        return tuple(Bar(f"{value:g}", count) for value, count in sorted(Counter(rounded).items()))
    counts, edges = np.histogram(numbers, BINS)
    return tuple(
        Bar(f"{low:.4g} to {high:.4g}", int(count))
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
    )


def of_values(values: Iterable[Label]) -> tuple[Bar, ...]:
    """A bar for each value, the most frequent first; the rare ones together."""
    counts = Counter(str(value) for value in values)
    bars = tuple(Bar(value, count) for value, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])))
    if len(bars) <= MOST_VALUES:
        return bars
    shown, others = bars[: MOST_VALUES - 1], bars[MOST_VALUES - 1 :]
    return (*shown, Bar(f"{len(others)} others", sum(bar.count for bar in others)))


def _of_labels(values: Sequence[Label]) -> tuple[Bar, ...]:
    numbers = [value for value in values if isinstance(value, float)]
    return of_numbers(numbers) if len(numbers) == len(values) else of_values(values)
