"""Work over the samples of many shards, cut into parts that keep all processes busy however large a shard is.

A part is a few samples of one shard. Results come in the order of shards and samples, whatever the number of
processes. A sample that kills its process, or on which it hangs (decoders do both), costs that sample and not the run:
the samples of its part are tried one by one, each in a process of its own.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Generic, TypeVar

import numpy as np

from jepa.data.watchdog import call_watched
from jepa.data.workers import Loader, Loss

PART = 32
"""Samples that a process looks at in one go."""

Found = TypeVar("Found")


@dataclass(frozen=True)
class Part:
    """Samples first .. end - 1 of a shard."""

    shard: int
    first: int
    end: int

    def __len__(self) -> int:
        return self.end - self.first


@dataclass(frozen=True)
class Parts(Generic[Found]):
    """The samples of all shards in parts of `PART`, numbered through."""

    look: Callable[[Part], list[Found]]
    """What is done with a part; must pickle."""
    lost: Callable[[int, int, str], list[Found]]
    """(shard, number of a sample in it, reason) -> what comes in place of a sample that its process was lost to."""
    counts: tuple[int, ...]
    """Samples of each shard."""
    ends: tuple[int, ...]
    """Number of the part behind the last one of each shard."""

    @classmethod
    def of(
        cls,
        look: Callable[[Part], list[Found]],
        lost: Callable[[int, int, str], list[Found]],
        counts: Sequence[int],
    ) -> "Parts[Found]":
        return cls(look, lost, tuple(counts), tuple(accumulate(-(-count // PART) for count in counts)))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def part(self, number: int) -> Part:
        shard = int(np.searchsorted(self.ends, number, side="right"))
        place = number - (self.ends[shard - 1] if shard else 0)
        return Part(shard, place * PART, min((place + 1) * PART, self.counts[shard]))

    def __call__(self, number: int) -> list[Found]:
        return self.look(self.part(number))

    def run(self, workers: int, deadline: float | None = None) -> Iterator[tuple[Part, list[Found]]]:
        """Every part with what was found in it, in order.

        Args:
            workers: processes; 0 for none beside this one, which a crash then ends.
            deadline: seconds in which a sample must come a step further (`watchdog.beat`).
        """

        def one_by_one(number: int, _: Loss) -> list[Found]:
            return list(self._one_by_one(self.part(number), deadline))

        numbers = range(len(self))
        make = partial(call_watched, self)
        for number, found in enumerate(Loader(make, numbers, workers=workers, deadline=deadline, on_loss=one_by_one)):
            yield self.part(number), found

    def _one_by_one(self, part: Part, deadline: float | None) -> Iterator[Found]:
        """What is found in a part of which some sample is known to be fatal."""

        def fatal(number: int, loss: Loss) -> list[Found]:
            return self.lost(part.shard, number, loss.reason)

        make, samples = partial(call_watched, partial(_alone, self.look, part.shard)), range(part.first, part.end)
        for found in Loader(make, samples, workers=1, deadline=deadline, on_loss=fatal):
            yield from found


def _alone(look: Callable[[Part], list[Found]], shard: int, number: int) -> list[Found]:
    return look(Part(shard, number, number + 1))
