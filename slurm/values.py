"""Texts that Slurm understands, checked before it sees them: times, signals, lists of array tasks, words.

Two reasons. sbatch says "Invalid --time specification" and leaves the rest to the reader, or takes a word for another
thing than was meant. And what a user writes ends in a shell script: a value that could leave its place (a line break,
a quote, a space in front of another option) is refused here instead of being escaped in one place and forgotten in
the next.
"""

import re

from jepa.errors import ConfigError

_WORD = re.compile(r"[\w.:@/+=,~-]+", re.ASCII)
_FEATURES = re.compile(r"[\w.:@/+=,~&|*!()\[\]-]+", re.ASCII)
_TIME = re.compile(
    r"(?:(?P<days>\d+)-(?P<h>\d+)(?::(?P<hm>\d+)(?::(?P<hms>\d+))?)?|(?P<minutes>\d+)(?::(?P<ms>\d+))?"
    r"|(?P<hours>\d+):(?P<m>\d+):(?P<s>\d+))",
    re.ASCII,
)
_SIGNAL = re.compile(r"(?:SIG)?(?:USR1|USR2|TERM)@(?P<lead>\d{1,5})", re.ASCII)
_TASKS = re.compile(r"(?P<tasks>\d+(?:-\d+(?::\d+)?)?(?:,\d+(?:-\d+(?::\d+)?)?)*)(?:%[1-9]\d*)?", re.ASCII)
_MOST_TASKS = 10000


def word(name: str, text: str, *, features: bool = False) -> str:
    """The text itself.

    Args:
        name: of the option, for the message.
        text: its value.
        features: operators of node features are allowed too: & | * ! ( ) [ ].

    Raises:
        ConfigError: it has spaces, quotes or other signs that mean something to a shell.
    """
    if not (_FEATURES if features else _WORD).fullmatch(text):
        raise ConfigError(f"{name} is {text!r}: letters, digits and . : @ / + = , ~ - only, no spaces or quotes")
    return text


def time_limit(text: str) -> int | None:
    """Seconds of a time limit as sbatch reads it, rounded up to whole minutes; none if it is without limit.

    Formats (man sbatch): minutes, minutes:seconds, hours:minutes:seconds, days-hours, days-hours:minutes,
    days-hours:minutes:seconds.

    Raises:
        ConfigError: it is in none of them.
    """
    if text.upper() in ("UNLIMITED", "INFINITE"):
        return None
    found = _TIME.fullmatch(text)
    if found is None:
        raise ConfigError(
            f"time is '{text}': expected minutes, minutes:seconds, hours:minutes:seconds, days-hours or "
            "days-hours:minutes:seconds, e.g. 24:00:00 or 1-00 for a day"
        )
    part = {name: int(value or 0) for name, value in found.groupdict().items()}
    seconds = (
        86400 * part["days"]
        + 3600 * (part["h"] + part["hours"])
        + 60 * (part["hm"] + part["minutes"] + part["m"])
        + (part["hms"] + part["ms"] + part["s"])
    )
    return 60 * -(-seconds // 60) or None


def signal_lead(text: str) -> int:
    """Seconds before the end of the job at which Slurm sends a signal such as USR1@120.

    Raises:
        ConfigError: another format, or a signal that does not make a run save its state.
    """
    found = _SIGNAL.fullmatch(text)
    if found is None:
        raise ConfigError(
            f"signal is '{text}': expected USR1, USR2 or TERM and the seconds before the end, e.g. USR1@120; or null"
        )
    return int(found["lead"])


def array_tasks(text: str) -> list[int]:
    """The numbers of the tasks of an array: "0-6:2,9%2" is [0, 2, 4, 6, 9], of which Slurm runs two at a time.

    Raises:
        ConfigError: another format, or thousands of tasks.
    """
    found = _TASKS.fullmatch(text)
    if found is None:
        raise ConfigError(f"array is '{text}': expected the numbers of its tasks, e.g. 0-4, 0,3,7 or 0-9%2")
    numbers: set[int] = set()
    for part in found["tasks"].split(","):
        first, last, step = re.fullmatch(r"(\d+)(?:-(\d+))?(?::(\d+))?", part).groups()  # type: ignore[union-attr]
        tasks = range(int(first), int(last or first) + 1, max(int(step or 1), 1))
        if not 0 < len(tasks) <= _MOST_TASKS:
            raise ConfigError(f"array is '{text}': {part} is {len(tasks)} tasks, expected 1 to {_MOST_TASKS}")
        numbers.update(tasks)
    return sorted(numbers)
