"""Where the time of a step goes, on each rank, and which rank the others wait for.

On a GPU the host is ahead of the device: a clock around `forward` would measure how long it takes to ask for it. So
there a part is the time between two events in the device's own queue, which costs no waiting; they are read when a row
is written, where the loss is read too. On a CPU it is the clock. Waiting for data is always of the host's clock.

A rank that is slow is not the one that waits: in synchronous training the others do, in `agreement`, and in the
gradient exchange inside `backward`. So a straggler is looked for in what a rank does by itself (data, forward,
optimizer): it is one if its own time exceeds that of the median rank by more than a tenth of the whole step, in several
rows one after the other, because anybody may be late once.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median_low
from typing import Literal

import torch

Part = Literal["data", "forward", "backward", "optimizer", "agreement"]
PARTS: tuple[Part, ...] = ("data", "forward", "backward", "optimizer", "agreement")
"""Waiting for the loader; forward; backward with the exchange of gradients; clipping, optimizer and EMA; waiting for
the other ranks to agree on the step."""
OWN: tuple[Part, ...] = ("data", "forward", "optimizer")
"""Parts in which no rank waits for another."""


class Timings:
    """Seconds of the parts of this rank's steps since they were last taken. Parts do not nest."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._seconds: dict[Part, float] = {}
        self._marks: list[tuple[Part, torch.cuda.Event, torch.cuda.Event]] = []
        self._free: list[torch.cuda.Event] = []

    @contextmanager
    def part(self, name: Part) -> Iterator[None]:
        """The block belongs to this part."""
        if self.device.type == "cuda" and name != "data":
            begin, end = self._event(), self._event()
            begin.record()
            yield
            end.record()
            self._marks.append((name, begin, end))
        else:
            begun = time.perf_counter()
            yield
            self.add(name, time.perf_counter() - begun)

    def add(self, name: Part, seconds: float) -> None:
        """Seconds of a part that were measured elsewhere."""
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    def take(self) -> dict[str, float]:
        """Seconds of each part that was measured since the last time; waits for the device to finish them."""
        if self._marks:
            self._marks[-1][2].synchronize()
        for name, begin, end in self._marks:
            self.add(name, begin.elapsed_time(end) / 1000)
            self._free += [begin, end]
        taken: dict[str, float] = {name: self._seconds[name] for name in PARTS if name in self._seconds}
        self._marks, self._seconds = [], {}
        return taken

    def _event(self) -> torch.cuda.Event:
        return self._free.pop() if self._free else torch.cuda.Event(enable_timing=True)


@dataclass(frozen=True)
class Straggler:
    """A rank that the others wait for."""

    rank: int
    part: str
    """In which it loses most."""
    seconds: float
    """Of its own time over that of the median rank."""
    share: float
    """Of the whole time, that everybody loses by it."""


def stragglers(table: Sequence[Mapping[str, float]], *, share: float = 0.1) -> list[Straggler]:
    """The ranks that are slow by themselves, the slowest first.

    Args:
        table: what `Timings.take` gave on each rank, for the same steps.
        share: of the whole time; least that a straggler costs the others.
    """
    if len(table) < 2:
        return []
    own = [sum(row.get(name, 0.0) for name in OWN) for row in table]
    usual, whole = median_low(own), max(sum(row.values()) for row in table)
    found = []
    for rank, seconds in enumerate(own):
        if seconds - usual > share * whole > 0:
            over = {name: table[rank].get(name, 0.0) - median_low(row.get(name, 0.0) for row in table) for name in OWN}
            part = max(over, key=lambda name: over[name])
            found.append(Straggler(rank, part, seconds - usual, (seconds - usual) / whole))
    return sorted(found, key=lambda one: -one.seconds)


class StragglerWatch:
    """Names a rank when it has been slow in several rows one after the other; once, until it is quick again."""

    def __init__(self, *, rows: int = 3, share: float = 0.1) -> None:
        self.rows = rows
        self.share = share
        self._slow: dict[int, int] = {}

    def see(self, table: Sequence[Mapping[str, float]]) -> list[Straggler]:
        """The ranks that have just become stragglers, by the next row's timings of all ranks."""
        found = stragglers(table, share=self.share)
        self._slow = {one.rank: self._slow.get(one.rank, 0) + 1 for one in found}
        return [one for one in found if self._slow[one.rank] == self.rows]


def columns(table: Sequence[Mapping[str, float]], seconds: float) -> dict[str, float]:
    """For a row of metrics: shares of rank 0's time, and the rank with the most time of its own if there are several.

    Args:
        table: as in `stragglers`.
        seconds: that the steps took.
    """
    shares = {name: value / seconds for name, value in table[0].items() if name != "data"}  # has a column: data_wait
    if len(table) > 1:
        own = [sum(row.get(name, 0.0) for name in OWN) for row in table]
        shares["slowest_rank"] = float(max(range(len(own)), key=own.__getitem__))
    return shares
