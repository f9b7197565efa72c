"""Work over the samples of many shards, cut into parts that keep all processes busy however large a shard is.

A part is a few samples of one shard. Results come in the order of shards and samples, whatever the number of
processes. A sample that kills its process (decoders crash) costs that sample and not the run: which part it was is not
known, so the samples of the next part are tried one by one, and the rest goes on.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Generic, TypeVar

import numpy as np

from jepa.data.workers import Loader

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
    crashed: Callable[[int, int], list[Found]]
    """(shard, number of a sample in it) -> what comes in place of a sample that killed its process."""
    counts: tuple[int, ...]
    """Samples of each shard."""
    ends: tuple[int, ...]
    """Number of the part behind the last one of each shard."""

    @classmethod
    def of(
        cls,
        look: Callable[[Part], list[Found]],
        crashed: Callable[[int, int], list[Found]],
        counts: Sequence[int],
    ) -> "Parts[Found]":
        return cls(look, crashed, tuple(counts), tuple(accumulate(-(-count // PART) for count in counts)))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def part(self, number: int) -> Part:
        shard = int(np.searchsorted(self.ends, number, side="right"))
        place = number - (self.ends[shard - 1] if shard else 0)
        return Part(shard, place * PART, min((place + 1) * PART, self.counts[shard]))

    def __call__(self, number: int) -> list[Found]:
        return self.look(self.part(number))

    def run(self, workers: int) -> Iterator[tuple[Part, list[Found]]]:
        """Every part with what was found in it, in order.

        Args:
            workers: processes; 0 for none beside this one, which a crash then ends.
        """
        done = 0
        while done < len(self):
            try:
                for found in Loader(self, range(done, len(self)), workers=min(workers, len(self) - done)):
                    done += 1
                    yield self.part(done - 1), found
            except RuntimeError as error:
                if "exited unexpectedly" not in str(error):
                    raise
                part = self.part(done)
                done += 1
                yield part, list(self._one_by_one(part))

    def _one_by_one(self, part: Part) -> Iterator[Found]:
        for number in range(part.first, part.end):
            try:
                for found in Loader(partial(_alone, self.look, part.shard), range(number, number + 1), workers=1):
                    yield from found
            except RuntimeError as error:
                if "exited unexpectedly" not in str(error):
                    raise
                yield from self.crashed(part.shard, number)


def _alone(look: Callable[[Part], list[Found]], shard: int, number: int) -> list[Found]:
    return look(Part(shard, number, number + 1))
