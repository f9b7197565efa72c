"""One call of `pretrain`: the processes that take part, what asks them to stop, and the claim to the run folder."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from jepa.data.folder_lock import FolderLock
from jepa.devices import choose_device
from jepa.errors import InterruptedRun, JepaError
from jepa.logs import for_rank, get_logger
from jepa.training.launch import Ranks, find_ranks
from jepa.training.preemption import EXIT_AGAIN, WARNINGS, StopRequest
from jepa.training.run_config import RunConfig
from jepa.training.slurm_job import requeue, seconds_left
from jepa.training.strategy import device_number
from jepa.training.team import OthersTell, Team, has_lost_another

log = get_logger(__name__)

LOCK = "run.lock"


class Session:
    """What all phases of a run share."""

    def __init__(self, run: RunConfig, ranks: Ranks) -> None:
        """Meet the other processes. Raises ConfigError, JepaError as `Team`."""
        self.run = run
        self.device = _device(run, ranks)
        self.stop = StopRequest()
        self._lock: FolderLock | None = None
        self.stop.listen(WARNINGS)
        try:
            self.team = Team(ranks, self.device, run.timeout)
        except BaseException:
            self.stop.release(WARNINGS)
            raise

    def watch_the_clock(self) -> None:
        """Have the run stop before the time limit of its Slurm job, if there is one."""
        left = seconds_left() if self.team.leads else None
        if left is not None:
            self.stop.deadline = time.monotonic() + left - self.run.stop_before
            if left < 2 * self.run.stop_before:
                log.warning(
                    "the job has %.0f s left and stops %.0f s before (run.stop_before), which leaves little for each "
                    "start: give it more time, or lower that", left, self.run.stop_before,
                )  # fmt: skip
            log.info("the job ends in %.0f minutes: stopping %.0f s before", left / 60, self.run.stop_before)

    def claim(self, out: Path) -> None:
        """Have the run folder for this run alone, until the end of the session. Once is enough.

        Raises:
            ConfigError: another run has it.
        """

        def lock() -> None:
            if self.team.leads and self._lock is None:
                self._lock = FolderLock(out / LOCK, f"trains in {out}")

        self.team.together(lock)

    def end(self) -> None:
        """Part from the other processes, and let the folder go."""
        self.stop.release(WARNINGS)
        if self._lock is not None:
            self._lock.release(remove=True)
            with contextlib.suppress(OSError):  # a mistake before the first file leaves no folder behind
                self._lock.file.parent.rmdir()
            self._lock = None
        self.team.leave()


@contextlib.contextmanager
def session(run: RunConfig) -> Iterator[Session]:
    """A session. Rank 0 tells errors that all processes have; others tell what they alone have, with their rank.

    Raises:
        ConfigError: the ranks in the environment are incomplete, or there is no such device.
        JepaError: other processes did not come.
    """
    ranks = find_ranks(os.environ)
    with for_rank(ranks.rank if ranks.several else 0):
        current = None
        try:
            current = Session(run, ranks)
            current.watch_the_clock()
            yield current
        except InterruptedRun as stopped:
            assert current is not None
            again = stopped.exit_code == EXIT_AGAIN and run.requeue
            # All wait: a launcher that sees one process end has the others end, before rank 0 has put the job back into
            # the queue and written how the run stands.
            with contextlib.suppress(RuntimeError):  # of one that is gone all the same
                current.team.alone(requeue if again else bool)
            if ranks.rank:
                raise OthersTell(stopped.exit_code) from None
            raise
        except JepaError as error:
            if ranks.rank:
                error.args = (f"rank {ranks.rank}: {error}",)
            raise
        except RuntimeError as error:
            if not (ranks.several and has_lost_another(error)):
                raise
            raise JepaError(
                f"{f'rank {ranks.rank}: ' if ranks.rank else ''}another process is gone, or did not answer for "
                f"{run.timeout:g} s (run.timeout): its own message tells more; start the run again"
            ) from error
        finally:
            if current is not None:
                current.end()


def _device(run: RunConfig, ranks: Ranks) -> torch.device:
    device = choose_device(run.device, "run.device")
    if device.type != "cuda":
        return device
    device = torch.device("cuda", device_number(ranks, torch.cuda.device_count()) if ranks.several else 0)
    torch.cuda.set_device(device)
    if not ranks.several and torch.cuda.device_count() > 1:
        log.info(
            "one of %d GPUs is used; all: torchrun --nproc-per-node %d -m jepa pretrain ...",
            *2 * [torch.cuda.device_count()],
        )
    return device
