"""The processes of a run as a group: what one decides, all do; what one fails in, all end with.

Two ways to act before and between steps, where a file may be missing on one machine only:

    team.together(action)    every process acts; an error of any of them becomes the error of all
    team.alone(action)       rank 0 acts, and all get its result, or its error

So a mistake is said once, by rank 0, with the ranks that it happened on, and no process is left waiting for another
that has ended. Within a step nothing of this is needed: there, one reduction carries everything (`agreement.py`).
"""

import datetime
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import distributed

from jepa.errors import JepaError
from jepa.training.launch import Ranks

Result = TypeVar("Result")


_LOST_PEER = re.compile(r"gloo|connection (closed|reset|refused)|broken pipe|timed out|nccl", re.IGNORECASE)


def has_lost_another(error: RuntimeError) -> bool:
    """Whether an error of torch says that another process is gone, or does not answer."""
    return isinstance(error, distributed.DistError) or _LOST_PEER.search(str(error)) is not None


class OthersTell(SystemExit):
    """Ends a process other than rank 0, which says why."""


@dataclass(frozen=True)
class _Failure:
    """An error on its way to the other processes."""

    kind: type[JepaError]
    message: str
    exit_code: int

    def error(self, message: str) -> JepaError:
        """As it was, with another message."""
        error = JepaError.__new__(self.kind)
        error.args = (message,)
        error.exit_code = self.exit_code
        return error


class Team:
    """The processes of a run; of one process there is no group, and everything is plain calls."""

    def __init__(self, ranks: Ranks, device: torch.device, timeout: float) -> None:
        """Meet the others.

        Args:
            ranks: place of this process.
            device: that it computes on.
            timeout: seconds that any of them may be waited for.

        Raises:
            JepaError: they did not come.
        """
        self.ranks, self.device, self.timeout = ranks, device, timeout
        self._objects: Any = None
        """The group that carries Python objects: by gloo, which needs no GPU."""
        if ranks.several:
            self._meet()

    def _meet(self) -> None:
        ranks, wait = self.ranks, self.wait
        backend = "nccl" if self.device.type == "cuda" else "gloo"
        try:
            # Through the environment, because torchrun's agent keeps the meeting place of its processes itself.
            os.environ.update(MASTER_ADDR=ranks.address, MASTER_PORT=str(ranks.port))
            distributed.init_process_group(
                backend, rank=ranks.rank, world_size=ranks.world_size, timeout=wait,
                device_id=self.device if backend == "nccl" else None,
            )  # fmt: skip
            self._objects = None if backend == "gloo" else distributed.new_group(backend="gloo", timeout=wait)
        except (RuntimeError, ValueError, OSError) as error:
            raise JepaError(
                f"{ranks} did not meet the others at {ranks.address}:{ranks.port} within {self.timeout:g} s "
                f"({str(error).splitlines()[0][:160]}): see whether all have started, and whether MASTER_ADDR and "
                "MASTER_PORT name the machine of rank 0 and a free port of it"
            ) from error

    def leave(self) -> None:
        """Part from the others; afterwards another run may meet in this process."""
        if self.ranks.several and distributed.is_initialized():
            distributed.destroy_process_group()

    @property
    def wait(self) -> datetime.timedelta:
        """For which the processes wait for each other."""
        return datetime.timedelta(seconds=self.timeout)

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which writes files and speaks."""
        return self.ranks.rank == 0

    def gather(self, value: Result) -> list[Result]:
        """The values of all processes, by rank; of anything that pickles."""
        if not self.ranks.several:
            return [value]
        values: list[Any] = [None] * self.ranks.world_size
        distributed.all_gather_object(values, value, group=self._objects)
        return values

    def together(self, action: Callable[[], Result]) -> Result:
        """What `action` gives here; an error if it raises one anywhere.

        Raises:
            JepaError: it has raised one, in some of the processes; in those other than rank 0 `OthersTell`.
        """
        if not self.ranks.several:
            return action()
        result, failure = None, None
        try:
            result = action()
        except JepaError as error:
            failure = _Failure(type(error), str(error), error.exit_code)
        failures = self.gather(failure)
        if any(failures):
            raise self._end(failures)
        return result  # type: ignore[return-value]

    def alone(self, action: Callable[[], Result]) -> Result:
        """What `action` gives on rank 0; it must pickle. Raises as `together`."""
        result = self.together(lambda: action() if self.leads else None)
        return self.gather(result)[0]  # type: ignore[return-value]

    def _end(self, failures: list[_Failure | None]) -> BaseException:
        first = next(failure for failure in failures if failure)
        if not self.leads:
            return OthersTell(first.exit_code)
        failed = [rank for rank, failure in enumerate(failures) if failure]
        if failed == [0] or len(failed) == len(failures):
            return first.error(first.message)
        return first.error(f"{ranks_text(failed)}: {first.message}")


def ranks_text(ranks: list[int]) -> str:
    """Ranks as read by people: "rank 3", "ranks 0, 3 and 7", "ranks 0, 1, 2 and 61 more"."""
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    shown, rest = (ranks[:-1], str(ranks[-1])) if len(ranks) < 6 else (ranks[:3], f"{len(ranks) - 3} more")
    return f"ranks {', '.join(map(str, shown))} and {rest}"
