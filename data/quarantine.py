"""Samples of a data set that cannot be used, in a file that later runs read.

A sample whose bytes are damaged, that does not decode, or on which a decoder crashed or never came back, is not asked
for a second time: it is written down, and from then on the order of a run takes another sample in its place by rule
(`Order.spare`). Such a sample is bad on every machine, so the sequence of clips is the same whether a run meets it or
knows of it.

The file is CACHE/quarantine/NAME-FINGERPRINT-PLACE.jsonl (another copy of a data set may be whole), one JSON object a
line: index, key, place, reason. Lines are appended in one write, so any number of processes may add to it; each notices
what the others added when it looks. Where it cannot be written, a file in a temporary folder serves the processes of
this run.
"""

import json
import os
import shutil
import tempfile
import uuid
import weakref
from collections import Counter
from dataclasses import asdict, dataclass
from hashlib import blake2b
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
    """The bad samples of one source. Pickles as its paths; every copy reads the same files."""

    def __init__(self, source: Source, cache: Path, where: str = "") -> None:
        """Reads what is known already.

        Args:
            source: the data set.
            cache: cache folder; the file lies in its sub-folder `quarantine`. Nothing is written before the first
                bad sample.
            where: tells copies of the data set apart.
        """
        self.name, self.size = source.name, len(source)
        copy = f"-{blake2b(where.encode(), digest_size=4).hexdigest()}" if where else ""
        self.path = cache / "quarantine" / f"{cache_name(source)}{copy}.jsonl"
        self.refuge = Path(tempfile.gettempdir()) / f"jepa-quarantine-{uuid.uuid4().hex}" / self.path.name
        """Where samples are written down that `path` cannot take; goes with this object."""
        self._samples: dict[int, BadSample] = {}
        self._read = {self.path: 0, self.refuge: 0}
        """Bytes of each file that have been read."""
        self._news: list[BadSample] = []
        self._known = len(self.refresh())
        self._news.clear()
        self._removal = weakref.finalize(self, _remove, self.refuge.parent, os.getpid())

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "_removal"}

    def __len__(self) -> int:
        return len(self._samples)

    def __contains__(self, index: int) -> bool:
        return index in self._samples

    def __getitem__(self, index: int) -> BadSample:
        """Raises KeyError: the sample is not known to be bad."""
        return self._samples[index]

    @property
    def kept(self) -> bool:
        """Whether later runs will know all that this one has found."""
        return not self._read[self.refuge]

    def refresh(self) -> list[BadSample]:
        """Read what was added to the files since; returns what is new."""
        new = [sample for path in self._read for sample in self._read_on(path)]
        self._news += new
        return new

    def news(self) -> list[BadSample]:
        """What has become known since this was asked the last time."""
        self.refresh()
        news, self._news = self._news, []
        return news

    def _read_on(self, path: Path) -> list[BadSample]:
        try:
            size = path.stat().st_size
            if size == self._read[path]:
                return []
            start = self._read[path] if size > self._read[path] else 0  # a shorter one is another one
            with path.open("rb") as stream:
                stream.seek(start)
                content = stream.read()
        except (FileNotFoundError, NotADirectoryError):
            return []
        whole = content[: content.rfind(b"\n") + 1]  # a line that is being written is left for the next time
        self._read[path] = start + len(whole)
        new = [sample for line in whole.splitlines() if (sample := _parse(line)) and sample.index not in self]
        self._samples |= {sample.index: sample for sample in new}
        return new

    def add(self, sample: BadSample) -> None:
        """Write a sample down, unless it is there already.

        Raises:
            OSError: neither the file nor one in the temporary folder can be written.
        """
        self.refresh()
        if sample.index in self:
            return
        line = json.dumps(asdict(sample), ensure_ascii=False).encode() + b"\n"
        try:
            _append(self.path, line)
        except OSError:
            _append(self.refuge, line)
        self.refresh()

    def require_few(self, consumed: int, max_bad: float) -> None:
        """End a run whose data set is rotten.

        Args:
            consumed: clips of the run so far.
            max_bad: the part of the source that may be bad, and of these clips, as far as that was not known before.

        Raises:
            DataError: more are; names the shards with the most.
        """
        found = len(self) - self._known
        if len(self) <= max_bad * self.size and found <= max_bad * (consumed + GRACE):
            return
        worst = Counter(sample.place for sample in self._samples.values()).most_common(3)
        places = ", ".join(f"{place} ({count})" for place, count in worst)
        last = next(reversed(self._samples.values()))
        raise DataError(
            f"{self.name}: {len(self)} of {self.size} samples cannot be used, more than loader.max_bad {max_bad:g} "
            f"allows; worst: {places}; the last one: {last.key}: {last.reason}; all in "
            f"{self.path if self.kept else self.refuge}"
        )


def _append(path: Path, line: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)


def _remove(folder: Path, owner: int) -> None:
    """Not by a process that was forked and holds a copy of the object."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


def _parse(line: bytes) -> BadSample | None:
    """A line of the file; None if it is damaged (a disk that was full once)."""
    try:
        return BadSample(**json.loads(line))
    except (ValueError, TypeError):
        return None
