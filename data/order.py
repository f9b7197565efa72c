"""Which sample is the n-th of a run: a pure function of (size, seed, n), with no list to shuffle and no state to save.

Position n lies in epoch n // size. Within an epoch the samples come in the order of a keyed permutation of
range(size): a Feistel network (Luby and Rackoff 1988) on pairs (left, right) in Z_a x Z_b with a = ceil(sqrt(size))
and b = ceil(size / a),

    left  <- left  + F(right, key 1)  mod a
    right <- right + F(left,  key 2)  mod b        and so on,

where F is the finaliser of splitmix64. Adding a function of the other half can be undone, so every round is a
bijection whatever F is. a * b may exceed size by less than a; a value that lands outside goes round again
("cycle walking", Black and Rogaway 2002), which keeps the bijection on range(size).

Memory and time are O(1) at any position, so a restart at position nine million costs what a start costs, and the
order cannot depend on the number of ranks or workers.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

from jepa.rng import derive, generator

ROUNDS = 8
WORD = 2**64 - 1


@dataclass(frozen=True)
class Order:
    """The order of a run over `size` samples.

    Raises:
        ValueError: `size` is not positive.
    """

    size: int
    """Number of samples in the source."""
    seed: int
    """Seed of the run: another seed, another order."""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"an order needs at least one sample, got size {self.size}")

    def sample(self, n: int) -> tuple[int, int]:
        """Epoch and sample index of position `n` of the run.

        Raises:
            ValueError: `n` is negative.
        """
        if n < 0:
            raise ValueError(f"a position counts from 0, got {n}")
        epoch, place = divmod(n, self.size)
        return epoch, permute(place, self.size, _round_keys(self.seed, epoch))

    def spare(self, n: int, attempt: int) -> int:
        """Sample index that takes the place of position `n` if its own cannot be used, nor `attempt` spares before."""
        return int(generator(self.seed, n, f"spare/{attempt}").integers(self.size))


def permute(place: int, size: int, keys: tuple[int, ...]) -> int:
    """Image of `place` under the permutation of range(size) that the keys select."""
    a = math.isqrt(size - 1) + 1
    b = -(-size // a)
    value = place
    while True:
        value = _feistel(value, a, b, keys)
        if value < size:
            return value


def _feistel(value: int, a: int, b: int, keys: tuple[int, ...]) -> int:
    """One pass of the network over Z_a x Z_b; a pair is numbered left * b + right."""
    left, right = divmod(value, b)
    for first, second in zip(keys[::2], keys[1::2], strict=True):
        left = (left + _mix(right ^ first)) % a
        right = (right + _mix(left ^ second)) % b
    return left * b + right


def _mix(word: int) -> int:
    """Finaliser of splitmix64 (Steele, Lea and Flood 2014): every bit of the input moves every bit of the output."""
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & WORD
    return word ^ (word >> 31)


@lru_cache(maxsize=16)
def _round_keys(seed: int, epoch: int) -> tuple[int, ...]:
    return tuple(derive(seed, epoch, f"order/{round_}") for round_ in range(ROUNDS))
