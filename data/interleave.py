"""Several sequences as one, in exact proportion: which of them the n-th draw comes from, and its how-manieth it is.

Two sequences of weights a and b are interleaved as a Beatty sequence does (Bresenham's line): before draw t,
floor(t a / (a + b)) came from the left one, so draw t comes from the left one if that number grows with it. Each of
the two counts its own draws, so either may be interleaved of two again; a balanced tree serves any number. All in
integers, with no state, in O(log sequences).

After any number of draws each sequence is less than one draw per level of the tree from its share, so every batch
has nearly the proportions of the whole; after sum(weights) draws each has been drawn exactly its weight.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import accumulate


@dataclass(frozen=True)
class Interleave:
    """Sequences drawn in proportion to whole numbers.

    Raises:
        ValueError: no weight, a negative one, or none above zero.
    """

    weights: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.weights or min(self.weights) < 0 or not any(self.weights):
            raise ValueError(f"weights are {self.weights}, expected whole numbers from 0, not all 0")

    def draw(self, n: int) -> tuple[int, int]:
        """Number of the sequence that draw `n` comes from, and how many draws came from it before."""
        first, last, time = 0, len(self.weights), n
        while last - first > 1:
            middle = (first + last) // 2
            left, whole = self._between(first, middle), self._between(first, last)
            before = time * left // whole
            if (time + 1) * left // whole > before:
                last, time = middle, before
            else:
                first, time = middle, time - before
        return first, time

    @cached_property
    def _sums(self) -> tuple[int, ...]:
        return tuple(accumulate(self.weights, initial=0))

    def _between(self, first: int, last: int) -> int:
        return self._sums[last] - self._sums[first]


def exact(number: float) -> Fraction:
    """The number that is meant by a decimal: 0.335 is 335/1000, not its neighbour in binary."""
    return Fraction(repr(number))


def whole(shares: Sequence[Fraction]) -> tuple[int, ...]:
    """The smallest whole numbers in the proportion of `shares`, which are positive."""
    scale = math.lcm(*(share.denominator for share in shares))
    numbers = [int(share * scale) for share in shares]
    divisor = math.gcd(*numbers)
    return tuple(number // divisor for number in numbers)
