"""Reads over a network are tried again: exponential back-off with jitter, a bounded number of times, then one error.

The wait before attempt a + 1 is backoff * 2^(a - 1), at most a minute, times a factor between 0.5 and 1.5 that is drawn
from (what is read, a): thousands of workers that lose a server in the same moment do not all come back in the same
moment, and the same run waits equally long again.
"""

import time
from collections.abc import Callable
from typing import TypeVar

from jepa.data.storage import RemoteOptions, StoreError
from jepa.logs import get_logger

T = TypeVar("T")

LONGEST_WAIT = 60.0
"""Seconds, whatever the server asks for."""

log = get_logger(__name__)


class TransientError(Exception):
    """Something that may be better the next time."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        """Args: wait: seconds that the server asked to be left alone."""
        super().__init__(reason)
        self.wait = wait


def delay(what: str, attempt: int, backoff: float) -> float:
    """Seconds to wait after attempt number `attempt` (from 1) failed: a pure function of its arguments."""
    # Here and not above: it imports torch, which most who open a data set have no use for.
    from jepa.rng import derive

    jitter = 0.5 + derive(0, attempt, f"retry {what}") / 2**63
    return float(min(backoff * 2 ** (attempt - 1) * jitter, LONGEST_WAIT))


def retried(call: Callable[[], T], where: str, part: str, options: RemoteOptions) -> T:
    """The result of `call`, tried again as long as it raises TransientError.

    Args:
        call: the read.
        where: file that is read.
        part: what of it, such as "bytes 0 to 99".

    Raises:
        StoreError: it failed `options.attempts` times; says why the last time.
    """
    attempt = 1
    while True:
        try:
            return call()
        except TransientError as error:
            if attempt >= options.attempts:
                raise StoreError(where, f"{part}: {error}, tried {attempt} times") from None
            wait = max(delay(f"{where} {part}", attempt, options.backoff), min(error.wait, LONGEST_WAIT))
            log.info("%s: %s: %s; trying again in %.1f s", where, part, error, wait)
        time.sleep(wait)
        attempt += 1
