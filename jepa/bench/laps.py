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
    start, used = time.perf_counter(), core_seconds()
    work()
    # Processor time is counted in ticks where it is that of other processes: never zero, whatever is measured.
    return Lap(clips, time.perf_counter() - start, max(core_seconds() - used, 1e-9))


def timed_steps(batches: Iterator[object], skip: int, steps: int, batch: int) -> Lap:
    """The lap of `steps` batches of an iterator, after `skip` of them: by then all worker processes are at work."""
    for _ in range(skip):
        next(batches)

    def read() -> None:
        for _ in range(steps):
            next(batches)

    return timed(read, steps * batch)


def core_seconds() -> float:
    """Processor time so far: of this process, exactly, and of the living processes below it, in ticks of the kernel.

    Where the kernel has no /proc, of this process alone.
    """
    return time.process_time() + sum(_process_seconds(process) for process in _descendants(os.getpid()))


def _descendants(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for process, fields in _processes():
        children.setdefault(int(fields[1]), []).append(process)
    found, pending = [], [root]
    while pending:
        below = children.get(pending.pop(), [])
        found += below
        pending += below
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
