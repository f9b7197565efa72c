"""Times that can be compared on a machine that others use too: interleaved rounds, processor time, ratios per round.

Every contender does the same work once a round, the next round begins with another one, and what is compared is the
ratio of two contenders within a round: whatever slows the machine down for a minute slows both. Of the ratios (not of
the times) the median and the extremes are told.

"Per core" means per second of processor time, of all threads of this process and of all processes below it. A pool of
workers or a decoder with threads of its own finishes sooner on more cores and does not become cheaper per core by it.
"""

import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jepa.logs import progress


@dataclass(frozen=True)
class Lap:
    """One contender's work in one round."""

    clips: int
    seconds: float
    """By the clock on the wall."""
    core_seconds: float
    """Processor time of this process and those below it."""


@dataclass(frozen=True)
class Contender:
    """Something that produces clips."""

    group: str
    """Contenders of a group read the same files."""
    name: str
    run: Callable[[], Lap]
    """Do the work once."""
    bare: str | None = None
    """Name of the bare decoder of the same group that it is to be held against."""


@dataclass(frozen=True)
class Spread:
    """A quantity over the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        """Of at least one value."""
        ordered = sorted(values)
        return cls(statistics.median(ordered), ordered[0], ordered[-1])


def race(contenders: Sequence[Contender], rounds: int) -> list[list[Lap]]:
    """Laps of each contender, one per round; a first round, which fills caches and starts processes, is not told."""
    laps: list[list[Lap]] = [[] for _ in contenders]
    with progress(None, "measuring", (rounds + 1) * len(contenders)) as bar:
        for number in range(rounds + 1):
            for place in range(len(contenders)):
                which = (place + number) % len(contenders)
                lap = contenders[which].run()
                if number:
                    laps[which].append(lap)
                bar.advance(note=f"{contenders[which].group}, {contenders[which].name}")
    return laps


def per_core(laps: Sequence[Lap]) -> Spread:
    """Clips per second of processor time."""
    return Spread.of(lap.clips / lap.core_seconds for lap in laps)


def per_second(laps: Sequence[Lap]) -> Spread:
    """Clips per second by the clock."""
    return Spread.of(lap.clips / lap.seconds for lap in laps)


def ratio(laps: Sequence[Lap], others: Sequence[Lap]) -> Spread:
    """How many times as many clips per core as another contender, round by round."""
    pairs = zip(laps, others, strict=True)
    return Spread.of((mine.clips / mine.core_seconds) / (other.clips / other.core_seconds) for mine, other in pairs)


def timed(work: Callable[[], object], clips: int) -> Lap:
    """The lap of a piece of work that yields so many clips."""
    others = seconds_below()
    used, started = time.process_time(), time.perf_counter()
    work()
    seconds, own = time.perf_counter() - started, time.process_time() - used
    below = sum(value - others.get(process, 0.0) for process, value in seconds_below().items())
    return Lap(clips, seconds, own + below)


def timed_steps(batches: Iterator[object], skip: int, steps: int, batch: int) -> Lap:
    """The lap of `steps` batches of an iterator, after `skip` of them: by then all worker processes are at work."""
    for _ in range(skip):
        next(batches)

    def read() -> None:
        for _ in range(steps):
            next(batches)

    return timed(read, steps * batch)


def seconds_below() -> dict[int, float]:
    """Processor time so far of each living process below this one, in ticks of the kernel; none without a /proc."""
    parents = {process: int(fields[1]) for process, fields in _processes()}
    found: dict[int, float] = {}
    pending = [os.getpid()]
    while pending:
        above = pending.pop()
        below = [process for process, parent in parents.items() if parent == above]
        pending += below
        found |= {process: _process_seconds(process) for process in below}
    return found


def _processes() -> Iterator[tuple[int, list[str]]]:
    """Number and state (the fields behind the name) of every process."""
    for folder in Path("/proc").glob("[0-9]*"):
        if fields := _state(folder):
            yield int(folder.name), fields


def _process_seconds(process: int) -> float:
    fields = _state(Path(f"/proc/{process}"))
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if fields else 0.0


def _state(folder: Path) -> list[str]:
    try:
        text = (folder / "stat").read_text()
    except OSError:  # it has ended
        return []
    return text[text.rindex(")") + 2 :].split()
