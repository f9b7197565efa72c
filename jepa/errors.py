"""The errors a user can cause, each with the exit code that `jepa` ends with.

Library code raises these with one line that says what is wrong, where, and what to do. The command
line prints that line and exits with `exit_code`; anything else that escapes is a bug and exits with 1.
"""


class JepaError(Exception):
    """Base of the errors that are reported as one line, without a traceback."""

    exit_code = 1


class ConfigError(JepaError, ValueError):
    """Wrong usage or configuration: unknown key, value out of range, output that cannot be written."""

    exit_code = 2


class DataError(JepaError, ValueError):
    """Input that cannot be used: missing or empty folder, undecodable video, file that holds no encoder."""

    exit_code = 3


class SampleError(DataError):
    """One sample that cannot be used, in a data set that otherwise can: its bytes are damaged, or do not decode."""


class WorkerLost(JepaError):
    """A worker process ended that should not have: killed from outside, out of memory, or crashed in our own code."""


class DivergedError(JepaError, ArithmeticError):
    """The loss or a gradient is no longer finite."""

    exit_code = 4


class InterruptedRun(JepaError):
    """A run was stopped by a signal or a time limit, its state saved (130: Ctrl-C, 75: to be started again)."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code
