"""What a run does about the samples of a source that cannot be used.

Pretraining writes each of them down (`quarantine.py`), says so once, takes another sample in its place by rule
(`Order.spare`), and ends when there are too many. What measures something, or computes features, does not go on
without a sample: there it is an error.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from jepa.data.quarantine import BadSample, Quarantine
from jepa.data.source import Source
from jepa.data.storage import url_of
from jepa.data.worker_pool import Loss
from jepa.errors import SampleError, WorkerLost
from jepa.logs import get_logger

log = get_logger(__name__)


class BadSamples:
    """Those of one source, in one run. Pickles; every process has its copy and reads what others found."""

    def __init__(self, source: Source, cache: Path, max_bad: float) -> None:
        """Reads what earlier runs found.

        Args:
            source: the data set.
            cache: cache folder, with the quarantine in it.
            max_bad: part of the samples that may be bad.
        """
        self.source, self.max_bad = source, max_bad
        first = source.place(0)
        self.quarantine = Quarantine(source, cache, where=url_of(first) or str(Path(first).absolute()))
        self._told, self._warned = False, False

    def __contains__(self, index: int) -> bool:
        """Whether nothing of the sample is to be asked for: a decoder crashed or hung on it."""
        return index in self.quarantine

    def knows(self, index: int) -> bool:
        """Whether something of the sample cannot be used."""
        return self.quarantine.knows(index)

    def leaves_out(self, index: int, window: tuple[int, ...]) -> bool:
        """Whether these frames of the sample are not to be asked for."""
        return self.quarantine.leaves_out(index, window)

    def refresh(self) -> None:
        """Read what other processes have found."""
        self.quarantine.refresh()

    def add(self, index: int, reason: str, window: tuple[int, ...] | None = (), *, keep: bool = True) -> None:
        """Write a sample down.

        Args:
            window: what of it cannot be used, as in `BadSample`.
            keep: for later runs too; not what only the settings of this one refuse.
        """
        key, place = self.source.info(index).key, self.source.place(index)
        self.quarantine.add(BadSample(index, key, place, reason, window), keep=keep)

    def require_few(self, consumed: int) -> None:
        """Raises DataError: more than `max_bad` of what the run has seen, after `consumed` clips, are bad."""
        self.quarantine.require_few(consumed, self.max_bad)

    def report(self, consumed: int) -> None:
        """Log what was found since, by any process.

        Raises:
            DataError: as `require_few`.
        """
        news, quarantine = self.quarantine.news(), self.quarantine
        if not self._told and len(quarantine) > len(news):
            log.warning(
                "%s: of %d of %d samples something is known to be bad and left out, by %s",
                quarantine.name, len(quarantine) - len(news), quarantine.size, quarantine.path,
            )  # fmt: skip
        self._told = True
        for sample in news:
            part = "from now on" if sample.window == () else "where it cannot be decoded"
            log.warning(
                "%s: sample %s in %s is left out %s: %s; %d of %d samples are bad so far",
                quarantine.name, sample.key, sample.place, part, sample.reason, len(quarantine), quarantine.size,
            )  # fmt: skip
        if news and not quarantine.kept and not self._warned:
            log.warning("cannot write %s: later runs will have to find the bad samples again", quarantine.path)
            self._warned = True
        self.require_few(consumed)

    def error(self, index: int) -> SampleError:
        """What to raise where a bad sample is asked for all the same."""
        sample = self.quarantine[index]
        return SampleError(
            f"{self.quarantine.name}: sample {sample.key} in {sample.place} cannot be used: {sample.reason} "
            f"(delete {self.quarantine.path} to have it tried again)"
        )


def set_aside(sources: Mapping[int, BadSamples], number: int, loss: Loss) -> None:
    """A loader's `on_loss` in training: write the sample down; the number is then made again, with another one.

    Args:
        sources: by number, as `watched` names them.

    Raises:
        WorkerLost: it was no sample that the worker crashed on.
    """
    source, index = _token(number, loss)
    sources[source].add(index, loss.reason)


def refuse(sources: Mapping[int, Source], number: int, loss: Loss) -> NoReturn:
    """A loader's `on_loss` where no sample may be missing.

    Raises:
        SampleError: always; names the sample.
    """
    source, index = _token(number, loss)
    place, key = sources[source].place(index), sources[source].info(index).key
    raise SampleError(f"{sources[source].name}: sample {key} in {place}: {loss.reason}")


def _token(number: int, loss: Loss) -> tuple[int, int]:
    if loss.token is None:
        raise WorkerLost(f"a worker process crashed, not in a decoder, while it made item {number}")
    return loss.token
