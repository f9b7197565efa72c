"""Parting labelled clips: by class, so that every class is on both sides, and by origin, so that none is.

Several samples can be cut from one film. If some of them were held out and others kept, a probe could recognise
the film instead of what happens in it, and the held-out accuracy would flatter. So whole origins are held out,
and within that rule each class gives about the same fraction.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence

from jepa.rng import generator


def hold_out(
    classes: Sequence[str | int], origins: Sequence[str], fraction: float, *, seed: int, purpose: str
) -> tuple[list[int], list[int]]:
    """Part samples into (kept, held out); both sorted, together all of them.

    Every class with at least two origins has one held out and one kept. An origin with several classes counts to the
    commonest one. The result depends on the arguments alone.

    Args:
        classes: class of each sample.
        origins: origin of each sample, never empty.
        fraction: share to hold out, in (0, 1).
        seed: seed of the choice.
        purpose: what the split is for; other purposes give other splits.
    """
    samples: dict[str, list[int]] = defaultdict(list)
    for index, origin in enumerate(origins):
        samples[origin].append(index)
    by_class: dict[str, list[str]] = defaultdict(list)
    for origin, members in samples.items():
        commonest = Counter(str(classes[index]) for index in members).most_common(1)[0][0]
        by_class[commonest].append(origin)
    held: set[int] = set()
    for number, name in enumerate(sorted(by_class)):
        held.update(_pick(by_class[name], samples, fraction, seed, f"{purpose} {number}"))
    return [index for index in range(len(classes)) if index not in held], sorted(held)


def _pick(origins: list[str], samples: dict[str, list[int]], fraction: float, seed: int, purpose: str) -> list[int]:
    """Samples of randomly chosen origins, about `fraction` of them, leaving at least one origin."""
    wanted = max(1.0, fraction * sum(len(samples[origin]) for origin in origins))
    order = generator(seed, 0, purpose).permutation(len(origins))
    picked: list[int] = []
    for position in order[:-1]:
        members = samples[origins[position]]
        # Half of an origin counts: take it if that comes nearer to the wanted number.
        if len(picked) + len(members) / 2 > wanted and picked:
            break
        picked += members
    return picked
