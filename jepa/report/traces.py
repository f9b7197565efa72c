"""What a run has left in its folder, each trace read by itself: checkpoints, starts, alarms, the last sign.

A run of an earlier version has left fewer of them, and a damaged one is as good as none: whoever asks how a run stands
wants to know the rest. So nothing of what is read here is believed to be of any type, and text is shown in one line,
without what would steer a terminal.
"""

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from jepa import yaml_text
from jepa.checkpoints.io import load_state
from jepa.checkpoints.manifest import LAST, manifest_name
from jepa.checkpoints.shelf import Shelf
from jepa.errors import ConfigError, DataError
from jepa.training.lines import read_object

Event = Mapping[str, Any]
"""A line of events.jsonl."""
_LONGEST = 1000
"""Letters of a text that is shown."""


@dataclass(frozen=True)
class Saved:
    """A checkpoint."""

    path: str
    step: int | None
    time: str
    """ISO 8601."""
    bytes: int


@dataclass(frozen=True)
class Start:
    """One process after the other has trained this run."""

    time: str
    step: int
    """From which it went on."""
    command: str | None
    ended: str | None
    """Why it ended; none if it has not, or if nothing tells."""


def newest_checkpoint(folder: Path) -> Saved | None:
    """The newest checkpoint; of an earlier version, the only one. Looks at names and sizes, not at what is inside."""
    shelf = Shelf(folder)
    try:
        steps = [step for step in shelf.steps() if shelf.data(step).with_name(manifest_name(step)).is_file()]
        for step in reversed(steps):
            if found := _saved(shelf.data(step), step):
                return found
    except (DataError, OSError):
        return None
    path = folder / LAST
    if path.is_symlink() or not path.is_file():
        return None
    try:
        old = count(load_state(path, lazy=True).get("global_step", 0))
    except (DataError, OSError):
        old = None
    return _saved(path, old)


def _saved(path: Path, step: int | None) -> Saved | None:
    """None if it is not there, or has been removed since, for a newer one."""
    try:
        files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
        size, time = sum(file.stat().st_size for file in files), path.stat().st_mtime
        return Saved(str(path), step, datetime.fromtimestamp(time).astimezone().isoformat(timespec="seconds"), size)
    except (OSError, ValueError, OverflowError):
        return None


def starts_of(folder: Path, events: Sequence[Event], *, going_on: bool) -> tuple[Start, ...]:
    """Every start, with what ended it: the first event of that kind before the next start."""
    starts = read_facts(folder / "environment.json").get("starts")
    listed = [start for start in starts if isinstance(start, dict)] if isinstance(starts, list) else []
    begun = [number for number, event in enumerate(events) if event["kind"] == "start"]
    found: list[Start] = []
    for place, number in enumerate(begun):
        following = events[number + 1 : begun[place + 1] if place + 1 < len(begun) else None]
        ends = [event for event in following if event["kind"] in ("stop", "finish")]
        last = place + 1 == len(begun)
        unsaid = None if last and going_on else "killed"
        found.append(_start(events[number], _end(ends[0]) if ends else unsaid))
    # What an earlier version has begun is not among the events; what was begun anew at step 0 is nowhere else.
    older = listed[: max(0, len(listed) - len(found))]
    found = [_start(start, None) for start in older] + found
    commands = [line(start.get("command")) for start in listed][-len(found) :] if found else []
    unknown: list[str | None] = [None] * (len(found) - len(commands))
    return tuple(replace(start, command=command) for start, command in zip(found, unknown + commands, strict=True))


def _start(facts: Mapping[str, Any], ended: str | None) -> Start:
    return Start(line(facts.get("time")) or "damaged", count(facts.get("step")) or 0, None, ended)


def _end(event: Event) -> str:
    step = count(event.get("step"))
    at = "" if step is None else f"at step {step}"
    if event["kind"] == "finish":
        return f"finished {at}".rstrip()
    reason = line(event.get("reason")) or "stopped"
    return reason if "step" in reason or not at else f"{reason}, {at}"


def alarms_of(status: Mapping[str, Any], events: Sequence[Event]) -> tuple[str, ...]:
    if now := status.get("alarms"):
        said = map(line, now) if isinstance(now, list) else (line(now),)
        return tuple(filter(None, said))
    past = [event for event in events if event["kind"] == "alarm"]
    return tuple(line(event.get("message")) or f"alarm at step {count(event.get('step'))}" for event in past[-1:])


def last_sign(folder: Path, status: Mapping[str, Any]) -> datetime | None:
    """When the run has last written: by its own clock if it says so, else by that of the file system."""
    try:
        return datetime.fromisoformat(str(status["time"])).astimezone()
    except (KeyError, ValueError, OverflowError):
        pass
    times = []
    for name in ("metrics.csv", "checkpoints", "config.yaml"):
        with contextlib.suppress(OSError):
            times.append((folder / name).stat().st_mtime)
    try:
        return datetime.fromtimestamp(max(times)).astimezone() if times else None
    except (ValueError, OverflowError, OSError):
        return None


def steps_of(config: Mapping[str, Any], status: Mapping[str, Any]) -> int | None:
    """Steps that a run shall have; none if nothing tells."""
    if said := count(status.get("of")):
        return said
    optim = config.get("optim")
    steps, cut = count(optim.get("steps")) if isinstance(optim, Mapping) else None, count(config.get("max_steps"))
    return min(steps, cut or steps) if steps else None


def changes_of(phase: Any) -> dict[str, Any]:
    """Of what a phase changes, the number of steps, which is written nested or dotted."""
    changes = phase.get("changes") if isinstance(phase, Mapping) else None
    if not isinstance(changes, Mapping):
        return {}
    nested = changes.get("optim")
    steps = changes.get("optim.steps") or (nested.get("steps") if isinstance(nested, Mapping) else None)
    return {"optim": {"steps": steps}} if steps else {}


def finite(value: Any) -> float | None:
    """A number; none for what is no finite one."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def count(value: Any) -> int | None:
    """A whole number from 0 on; none for what is none, or larger than anything that is counted here."""
    number = None if isinstance(value, bool) else finite(value)
    return int(number) if number is not None and number.is_integer() and 0 <= number < 2**53 else None


def line(value: Any) -> str | None:
    """Text in one line, in which nothing steers a terminal; none for what is no text or number, or empty."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    shown = "".join(sign if sign.isprintable() else " " for sign in str(value)[:_LONGEST])
    return " ".join(shown.split()) or None


def read_config(path: Path) -> Mapping[str, Any]:
    try:
        return yaml_text.read(path)[0] if path.is_file() else {}
    except (ConfigError, ValueError, RecursionError):  # what YAML takes for a date need not be one
        return {}


def read_facts(path: Path) -> dict[str, Any]:
    try:
        return read_object(path) or {}
    except OSError:
        return {}
