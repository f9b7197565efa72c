"""Samples of a data set that cannot be used, in a file that later runs read.

What cannot be read is written down, and the order of a run takes another sample in its place by rule (`Order.spare`).
A video may be damaged in one part and whole in another. So what does not decode is a window, the very frames of a clip,
and only these are left out: whether a clip is replaced depends on the bytes of its frames and on nothing else, and the
sequence of clips is the same whether a run meets the damage or knows of it. A sample on which a decoder crashed or
never came back is not asked for a second time, whatever the frames.

The file is CACHE/quarantine/NAME-FINGERPRINT-PLACE.jsonl (another copy of a data set may be whole), one JSON object a
line: index, key, place, reason. Lines are appended in one write, so any number of processes may add to it; each notices
what the others added when it looks. Where it cannot be written, a file in a temporary folder serves the processes of
this run.
"""

import errno
import json
import os
import shutil
import tempfile
import uuid
import weakref
from collections import Counter
from dataclasses import asdict, dataclass, replace
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
    window: tuple[int, ...] | None = ()
    """Frames that are left out; none named: all of it; null: something in it, which its clips will tell."""


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
        """The first line about each."""
        self._lost: set[int] = set()
        """Those that are left out as a whole."""
        self._windows: set[tuple[int, tuple[int, ...]]] = set()
        self._read = {self.path: 0, self.refuge: 0}
        """Bytes of each file that have been read."""
        self._news: list[BadSample] = []
        self._known = len(self.refresh())
        self._news.clear()
        self._removal = weakref.finalize(self, _remove, self.refuge.parent, os.getpid())

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "_removal"}

    def __len__(self) -> int:
        """Samples of which something cannot be used."""
        return len(self._samples)

    def __contains__(self, index: int) -> bool:
        """Whether nothing of the sample is to be asked for."""
        return index in self._lost

    def knows(self, index: int) -> bool:
        """Whether something of the sample cannot be used."""
        return index in self._samples

    def leaves_out(self, index: int, window: tuple[int, ...]) -> bool:
        """Whether these frames of the sample are not to be asked for."""
        return index in self._lost or (index, window) in self._windows

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
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}; move it away, or choose another cache") from None
        whole = content[: content.rfind(b"\n") + 1]  # a line that is being written is left for the next time
        self._read[path] = start + len(whole)
        lines = [sample for line in whole.splitlines() if (sample := _parse(line, self.size))]
        new: list[BadSample] = []
        for sample in lines:
            if not self.knows(sample.index):
                self._samples[sample.index] = sample
                new.append(sample)
            if sample.window:
                self._windows.add((sample.index, sample.window))
            elif sample.window is not None:
                self._lost.add(sample.index)
        return new

    def add(self, sample: BadSample, *, keep: bool = True) -> None:
        """Write a sample down, unless it is there already.

        Args:
            sample: and what of it cannot be used.
            keep: for later runs too.

        Raises:
            DataError: neither the file nor one in the temporary folder can be written.
        """
        self.refresh()
        if self.leaves_out(sample.index, sample.window or ()) or (sample.window is None and self.knows(sample.index)):
            return
        line = json.dumps(asdict(sample), ensure_ascii=False).encode() + b"\n"
        try:
            _append(self.path if keep else self.refuge, line)
        except OSError:
            try:
                _append(self.refuge, line)
            except OSError as error:
                raise DataError(f"cannot write {self.path}, nor {self.refuge}: {error.strerror}") from None
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
            f"{self.path if self.kept else self.refuge} (delete it when they are mended)"
        )


def _append(path: Path, line: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        end = os.fstat(descriptor).st_size
        if end and os.pread(descriptor, 1, end - 1) != b"\n":
            line = b"\n" + line  # behind a line that a full disk has cut
        if os.write(descriptor, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(descriptor)


def _remove(folder: Path, owner: int) -> None:
    """Not by a process that was forked and holds a copy of the object."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


def _parse(line: bytes, size: int) -> BadSample | None:
    """A line of the file; None if it is damaged (a disk that was full once), or of no sample of so many."""
    try:
        sample = BadSample(**json.loads(line))
        if not (type(sample.index) is int and 0 <= sample.index < size):
            return None
        window = sample.window if sample.window is None else tuple(map(int, sample.window))
        return replace(sample, key=str(sample.key), place=str(sample.place), reason=str(sample.reason), window=window)
    except (ValueError, TypeError):
        return None
