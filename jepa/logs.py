"""Log lines and progress on stderr; stdout belongs to results.

On a terminal, progress is a rich bar (rich honours NO_COLOR and TERM=dumb); anywhere else (a file, a
pipe, a Slurm log) it is a plain line after ten seconds, then ever more rarely, down to one in ten minutes: a log of
carriage returns is unreadable, and so are the 60,000 lines of a week.
`configured` is what the command line wraps around a run: it routes every logger and every Python warning
through one handler, one line each, and mutes notices of third parties that a user can do nothing about.
Of several ranks only the first tells how things go; of the others one hears warnings, with their rank (`for_rank`).
As a library jepa configures nothing: it logs to the logger `jepa`, as libraries should.
"""

import logging
import re
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TextIO, TypeVar, overload

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

Item = TypeVar("Item")

PLAIN_SECONDS = 10.0
"""Least time between two plain progress lines."""
PLAIN_SHARE = 0.02
"""Part of the time that has passed which lies between two of them later."""
MOST_PLAIN_SECONDS = 600.0
"""Most time between two of them."""

# Notices that are true, but neither caused by the user nor mended by them.
NOISE = re.compile(
    r"does not have many workers"
    r"|GPU available: |TPU available: |HPU available: |💡 Tip"
    r"|You are using a CUDA device .* that has Tensor Cores"
    r"|exists and is not empty"
    r"|is smaller than the logging interval"
    r"|`isinstance\(treespec, LeafSpec\)`"
    r"|You defined a `validation_step` but have no `val_dataloader`"
    r"|`Trainer.fit` stopped: "
    r"|Trying to infer the `batch_size`"
    r"|pkg_resources is deprecated"
    r"|Detected call of `lr_scheduler.step\(\)`"
    r"|'pin_memory' argument is set as true but no accelerator"
)
_rank = 0
"""Of this process among those of its run."""


def get_logger(name: str) -> logging.Logger:
    """Logger of a module; pass `__name__`."""
    return logging.getLogger(name if name.split(".")[0] == "jepa" else f"jepa.{name}")


class _Handler(logging.Handler):
    """One line on whatever `sys.stderr` is now: a live rich bar replaces it, and so does pytest."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = " ".join(record.getMessage().split())
            if record.exc_info and record.exc_info[1]:
                text += f": {type(record.exc_info[1]).__name__}: {record.exc_info[1]}"
            if NOISE.search(text):
                return
            level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
            who = f"rank {_rank}: " if _rank else ""
            sys.stderr.write(f"{time.strftime('%H:%M:%S', time.localtime(record.created))} {level}{who}{text}\n")
            sys.stderr.flush()
        except Exception:
            self.handleError(record)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    logging.getLogger("py.warnings").warning("%s (%s, %s:%d)", message, category.__name__, filename, lineno)


@contextmanager
def for_rank(rank: int) -> Iterator[None]:
    """Say only what rank 0 does not: within, another rank logs warnings alone, each with "rank N: " before it, and
    shows no progress bar."""
    global _rank
    ours = logging.getLogger("jepa")
    before = _rank, ours.level
    _rank = rank
    if rank:
        ours.setLevel(logging.WARNING)
    try:
        yield
    finally:
        _rank = before[0]
        ours.setLevel(before[1])


@contextmanager
def configured(level: int = logging.INFO) -> Iterator[None]:
    """Log `jepa` from `level` on and everybody else from WARNING on, as plain lines on stderr."""
    root, ours = logging.getLogger(), logging.getLogger("jepa")
    before = root.level, ours.level
    handler = _Handler()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    ours.setLevel(level)
    # Lightning checks the root for handlers when it is imported and adds its own only if there is none.
    for name in ("lightning.pytorch", "lightning.fabric", "lightning_utilities"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            # Under pytest or `python -W ...` whoever asked for other filters keeps them.
            if not sys.warnoptions and "pytest" not in sys.modules:
                warnings.simplefilter("default")
                warnings.filterwarnings("ignore", category=DeprecationWarning)
                warnings.filterwarnings("ignore", category=PendingDeprecationWarning)
                warnings.showwarning = _show_warning
            yield
    finally:
        root.removeHandler(handler)
        root.setLevel(before[0])
        ours.setLevel(before[1])


class Progress(Generic[Item]):
    """A counter that shows itself; iterate over it, or use it as a context and call `advance`."""

    def __init__(self, items: Iterable[Item] | None, description: str, total: int | None, before: int = 0) -> None:
        self.items = items
        self.description = description
        self.total = total
        self.before = before
        """Done by an earlier process: counted, but not in the rate."""
        self.done = before
        self.note = ""
        self._shown = 0
        self._started = self._printed = 0.0
        self._bar: RichProgress | None = None

    def __enter__(self) -> "Progress[Item]":
        self._started = self._printed = time.monotonic()
        if sys.stderr.isatty() and not _rank:
            self._bar = _rich_bar()
            self._bar.add_task(self.description, total=self.total, completed=self.before, note="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        elif self._printed > self._started and kind is None and self.done > self._shown:
            self._print()

    def __iter__(self) -> Iterator[Item]:
        if self.items is None:
            raise TypeError("this progress was made without items: use it as a context and call advance()")
        with self:
            for item in self.items:
                yield item
                self.advance()

    def advance(self, count: int = 1, note: str | None = None) -> None:
        """`count` more are done; `note` is a short text to show behind the numbers, e.g. the loss."""
        self.done += count
        if note is not None:
            self.note = note
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self.done, note=self.note)
        elif time.monotonic() - self._printed >= self._interval():
            self._print()

    def _interval(self) -> float:
        """Seconds from the last plain line to the next."""
        return min(max(PLAIN_SECONDS, PLAIN_SHARE * (self._printed - self._started)), MOST_PLAIN_SECONDS)

    def _print(self) -> None:
        self._printed, self._shown = time.monotonic(), self.done
        rate = (self.done - self.before) / max(self._printed - self._started, 1e-9)
        parts = [f"{self.description} {self.done}"]
        if self.total:
            parts = [f"{self.description} {self.done}/{self.total} ({self.done / self.total:.0%})"]
        parts.append(f"{rate:.1f}/s")
        if self.total and rate > 0 and self.done < self.total:
            parts.append(f"{_duration((self.total - self.done) / rate)} left")
        if self.note:
            parts.append(self.note)
        get_logger("jepa.progress").info(", ".join(parts))


def _duration(seconds: float) -> str:
    """Seconds below ten minutes, else hours and minutes."""
    if seconds < 600:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _rich_bar() -> "RichProgress":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    # redirect_stdout=False: results on stdout must not pass through the bar's console, which is stderr.
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=Console(stderr=True),
        redirect_stdout=False,
    )


@overload
def progress(items: Iterable[Item], description: str, total: int | None = None) -> Progress[Item]: ...
@overload
def progress(items: None, description: str, total: int | None = None, before: int = 0) -> Progress[None]: ...
def progress(items: Iterable[Any] | None, description: str, total: int | None = None, before: int = 0) -> Progress[Any]:
    """Show how far a loop is: `for x in progress(xs, "packing")`, or `with progress(None, "training", 100) as bar`.

    Args:
        before: how many of the total an earlier process has done.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    return Progress(items, description, total, before)
