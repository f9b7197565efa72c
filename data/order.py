"""Which sample is the n-th of a run: a pure function of (shards, seed, n), nothing to shuffle and no state to save.

Position n lies in epoch n // size. Within an epoch the samples come in the order of a keyed permutation of
range(size): a Feistel network (Luby and Rackoff 1988) on pairs (left, right) in Z_a x Z_b with a = ceil(sqrt(size))
and b = ceil(size / a),

    left  <- left  + F(right, key 1)  mod a
    right <- right + F(left,  key 2)  mod b        and so on,

where F is the finaliser of splitmix64. Adding a function of the other half can be undone, so every round is a
bijection whatever F is. a * b may exceed size by less than a; a value that lands outside goes round again
("cycle walking", Black and Rogaway 2002), which keeps the bijection on range(size).

A permutation of all samples reads every shard all the time, which a disk or an object store answers slowly. With a
window, the shards of an epoch are permuted first; the first `window` of them are shuffled into one another and read,
then the next `window`, and so on: in any stretch of the run only a few shards are open, and which are together
changes from epoch to epoch. A window that holds all shards is the permutation of all samples.

Memory and time are O(1) at any position (with a window: O(shards) once in an epoch, from its number alone, then
O(log shards)), so a restart at position nine million costs what a start costs, and the order cannot depend on the
number of ranks or workers.
"""

import math
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from jepa.rng import derive, generator

ROUNDS = 8
WORD = 2**64 - 1
EPOCHS = 2
"""Epochs whose shards are kept in order: a batch may lie across the end of one."""


@dataclass(frozen=True)
class Order:
    """The order of a run over `size` samples.

    Raises:
        ValueError: `size` is not positive, `runs` do not sum to it, or `window` is negative.
    """

    size: int
    """Number of samples in the source."""
    seed: int
    """Seed of the run: another seed, another order."""
    runs: tuple[int, ...] = ()
    """Samples that lie together: the counts of the shards, in order; none for one run of all."""
    window: int = 0
    """Shards whose samples are shuffled into one another; 0, or as many as there are: all."""
    _epochs: dict[int, "_Epoch"] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"an order needs at least one sample, got size {self.size}")
        if self.runs and sum(self.runs) != self.size:
            raise ValueError(f"runs of {sum(self.runs)} samples in an order over {self.size}")
        if self.window < 0:
            raise ValueError(f"a window of shards is 0 (all of them) or more, got {self.window}")

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_starts"} | {"_epochs": {}}

    def sample(self, n: int) -> tuple[int, int]:
        """Epoch and sample index of position `n` of the run.

        Raises:
            ValueError: `n` is negative.
        """
        if n < 0:
            raise ValueError(f"a position counts from 0, got {n}")
        epoch, place = divmod(n, self.size)
        if not 0 < self.window < len(self.runs):
            return epoch, permute(place, self.size, _round_keys(self.seed, epoch, "order"))
        return epoch, self._epoch(epoch).sample(place)

    def spare(self, n: int, attempt: int) -> int:
        """Index of the sample to take at position `n` where its own, and all spares before this attempt, are bad.

        Any sample of the source, equally likely; it may be a bad one again.
        """
        return int(generator(self.seed, n, f"spare/{attempt}").integers(self.size))

    def _epoch(self, epoch: int) -> "_Epoch":
        if epoch not in self._epochs:
            while len(self._epochs) >= EPOCHS:
                self._epochs.pop(next(iter(self._epochs)))
            self._epochs[epoch] = _Epoch(self._starts, self.seed, epoch, self.window)
        return self._epochs[epoch]

    @cached_property
    def _starts(self) -> np.ndarray:
        """First sample of each shard, and the number of samples behind the last."""
        return np.concatenate([[0], np.cumsum(np.array(self.runs, np.int64))])


class _Epoch:
    """The windows of one epoch: where in it each permuted shard begins."""

    def __init__(self, starts: np.ndarray, seed: int, epoch: int, window: int) -> None:
        self.seed, self.epoch, self.window = seed, epoch, window
        count = len(starts) - 1
        shards = permute_all(count, _round_keys(seed, epoch, "order/shards"))
        self.first = starts[shards]
        """First sample of each shard, in the order of the epoch."""
        self.begin = np.concatenate([[0], np.cumsum(starts[shards + 1] - self.first)])
        """Samples of the epoch before each shard."""
        self.windows = np.append(self.begin[:-1:window], self.begin[-1])
        """Samples of the epoch before each window, and behind the last."""

    def sample(self, place: int) -> int:
        """Index of the sample at this place of the epoch."""
        number = _last_at_most(self.windows, place)
        begin, end = int(self.windows[number]), int(self.windows[number + 1])
        keys = _round_keys(self.seed, self.epoch, f"order/window/{number}")
        inside = begin + permute(place - begin, end - begin, keys)
        shard = _last_at_most(self.begin, inside)
        return int(self.first[shard]) + inside - int(self.begin[shard])


def _last_at_most(sorted_numbers: np.ndarray, value: int) -> int:
    """Place of the last number that is not above `value`: behind those of empty shards."""
    return int(np.searchsorted(sorted_numbers, value, side="right")) - 1


def permute(place: int, size: int, keys: tuple[int, ...]) -> int:
    """Image of `place` under the permutation of range(size) that the keys select."""
    a, b = _sides(size)
    value: int = _feistel(place, a, b, keys)
    while value >= size:
        value = _feistel(value, a, b, keys)
    return value


def permute_all(size: int, keys: tuple[int, ...]) -> np.ndarray:
    """`permute` of every place: int64 (size,)."""
    a, b = _sides(size)
    values: np.ndarray = _feistel(np.arange(size, dtype=np.uint64), a, b, keys)
    while (outside := values >= size).any():
        values[outside] = _feistel(values[outside], a, b, keys)
    return values.astype(np.int64)


def _sides(size: int) -> tuple[int, int]:
    a = math.isqrt(size - 1) + 1
    return a, -(-size // a)


def _feistel(value: Any, a: int, b: int, keys: tuple[int, ...]) -> Any:
    """One pass of the network over Z_a x Z_b; a pair is numbered left * b + right. For an int, or uint64 (N,)."""
    left, right = value // b, value % b
    for first, second in zip(keys[::2], keys[1::2], strict=True):
        # Reduced twice, as the sum of an array may not leave 64 bits.
        left = (left + _mix(right ^ first) % a) % a
        right = (right + _mix(left ^ second) % b) % b
    return left * b + right


def _mix(word: Any) -> Any:
    """Finaliser of splitmix64 (Steele, Lea and Flood 2014): every bit of the input moves every bit of the output."""
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & WORD
    return word ^ (word >> 31)


@lru_cache(maxsize=256)
def _round_keys(seed: int, epoch: int, purpose: str) -> tuple[int, ...]:
    return tuple(derive(seed, epoch, f"{purpose}/{round_}") for round_ in range(ROUNDS))
