"""Samples of a data set that cannot be used, in a file that later runs read.

A sample whose bytes are damaged, that does not decode, or on which a decoder crashed or never came back, is not asked
for a second time: it is written down, and from then on the order of a run takes another sample in its place by rule
(`Order.spare`). Such a sample is bad on every machine, so the sequence of clips is the same whether a run meets it or
knows of it.

The file is CACHE/quarantine/NAME-FINGERPRINT.jsonl, one JSON object a line: index, key, place, reason. Lines are
appended in one write, so any number of processes may add to it; each notices what the others added when it looks.
"""

import json
import os
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from jepa.data.source import Source, cache_name
from jepa.errors import DataError

GRACE = 10_000
"""Clips that a run has credit for when it starts, so that one bad sample at the first position does not end it."""


@dataclass(frozen=True)
class BadSample:
    """One line of the file."""

    index: int
    """Number of the sample in its source."""
    key: str
    place: str
    """The shard, or the file, that it lies in."""
    reason: str


class Quarantine:
    """The bad samples of one source. Pickles as its path; every copy reads the same file."""

    def __init__(self, source: Source, cache: Path) -> None:
        """Reads what is known already.

        Args:
            source: the data set.
            cache: cache folder; the file lies in its sub-folder `quarantine`. Nothing is written before the first
                bad sample.
        """
        self.name, self.size = source.name, len(source)
        self.path = cache / "quarantine" / f"{cache_name(source)}.jsonl"
        self._samples: dict[int, BadSample] = {}
        self._read = 0
        """Bytes of the file that have been read."""
        self.refresh()

    def __len__(self) -> int:
        return len(self._samples)

    def __contains__(self, index: int) -> bool:
        return index in self._samples

    def refresh(self) -> list[BadSample]:
        """Read what was added to the file since; returns what is new."""
        try:
            if self.path.stat().st_size == self._read:
                return []
            with self.path.open("rb") as stream:
                stream.seek(self._read)
                content = stream.read()
        except FileNotFoundError:
            return []
        whole = content[: content.rfind(b"\n") + 1]  # a line that is being written is left for the next time
        self._read += len(whole)
        new = [sample for line in whole.splitlines() if (sample := _parse(line)) and sample.index not in self]
        self._samples |= {sample.index: sample for sample in new}
        return new

    def add(self, sample: BadSample) -> None:
        """Write a sample down, unless it is there already.

        Raises:
            OSError: the file cannot be written.
        """
        self.refresh()
        if sample.index in self:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps(asdict(sample), ensure_ascii=False).encode() + b"\n"
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)
        self.refresh()

    def require_few(self, consumed: int, max_bad: float) -> None:
        """End a run whose data set is rotten.

        Args:
            consumed: clips of the run so far.
            max_bad: the part of them (and of the source) that may be bad.

        Raises:
            DataError: more are; names the shards with the most.
        """
        allowed = max_bad * min(self.size, consumed + GRACE)
        if len(self) <= allowed:
            return
        worst = Counter(sample.place for sample in self._samples.values()).most_common(3)
        places = ", ".join(f"{place} ({count})" for place, count in worst)
        raise DataError(
            f"{self.name}: {len(self)} of {self.size} samples cannot be used, more than loader.max_bad {max_bad:g} "
            f"allows; worst: {places}; reasons in {self.path}"
        )


def _parse(line: bytes) -> BadSample | None:
    """A line of the file; None if it is damaged (a disk that was full once)."""
    try:
        return BadSample(**json.loads(line))
    except (ValueError, TypeError):
        return None
