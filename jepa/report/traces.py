"""What a run has left in its folder, each trace read by itself: checkpoints, starts, alarms, the last sign.

A run of an earlier version has left fewer of them, and a damaged one is as good as none: whoever asks how a run stands
wants to know the rest.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from jepa import yaml_text
from jepa.checkpoints.io import load_state
from jepa.errors import ConfigError, DataError
from jepa.training.status import read_status

Event = Mapping[str, Any]
"""A line of events.jsonl."""


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
    found = {
        int(path.stem.split("-")[1]): path for path in folder.glob("step-*.ckpt") if path.with_suffix(".json").exists()
    }
    if found:
        step: int | None = max(found)
        path = found[max(found)]
    else:
        path = folder / "last.ckpt"
        if not path.is_file():
            return None
        try:
            step = int(load_state(path, lazy=True).get("global_step", 0))
        except DataError:
            step = None
    try:
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        size, time = sum(file.stat().st_size for file in files), path.stat().st_mtime
    except FileNotFoundError:  # removed since, for a newer one
        return None
    return Saved(str(path), step, datetime.fromtimestamp(time).astimezone().isoformat(timespec="seconds"), size)


def starts_of(folder: Path, events: Sequence[Event], *, going_on: bool) -> tuple[Start, ...]:
    """Every start, with what ended it: the first event of that kind before the next start."""
    listed = read_facts(folder / "environment.json").get("starts") or []
    begun = [number for number, event in enumerate(events) if event["kind"] == "start"]
    found: list[Start] = []
    for place, number in enumerate(begun):
        following = events[number + 1 : begun[place + 1] if place + 1 < len(begun) else None]
        ends = [event for event in following if event["kind"] in ("stop", "finish")]
        last = place + 1 == len(begun)
        unsaid = None if last and going_on else "killed"
        event = events[number]
        found.append(Start(str(event["time"]), int(event["step"]), None, _end(ends[0]) if ends else unsaid))
    # What an earlier version has begun is not among the events; what was begun anew at step 0 is nowhere else.
    older = listed[: max(0, len(listed) - len(found))]
    found = [Start(str(start.get("time")), int(start.get("step", 0)), None, None) for start in older] + found
    commands = [start.get("command") for start in listed][-len(found) :] if found else []
    unknown: list[str | None] = [None] * (len(found) - len(commands))
    return tuple(replace(start, command=command) for start, command in zip(found, unknown + commands, strict=True))


def _end(event: Event) -> str:
    if event["kind"] == "finish":
        return f"finished at step {event['step']}"
    reason = str(event.get("reason") or "stopped")
    return reason if "step" in reason else f"{reason}, at step {event['step']}"


def alarms_of(status: Mapping[str, Any], events: Sequence[Event]) -> tuple[str, ...]:
    if now := status.get("alarms"):
        return tuple(map(str, now)) if isinstance(now, list) else (str(now),)
    past = [event for event in events if event["kind"] == "alarm"]
    return tuple(str(event.get("message") or f"alarm at step {event['step']}") for event in past[-1:])


def last_sign(folder: Path, status: Mapping[str, Any]) -> datetime | None:
    """When the run has last written: by its own clock if it says so, else by that of the file system."""
    try:
        return datetime.fromisoformat(str(status["time"]))
    except (KeyError, ValueError):
        pass
    times = [
        path.stat().st_mtime
        for name in ("metrics.csv", "checkpoints", "config.yaml")
        if (path := folder / name).exists()
    ]
    return datetime.fromtimestamp(max(times)).astimezone() if times else None


def steps_of(config: Mapping[str, Any], status: Mapping[str, Any]) -> int | None:
    """Steps that a run shall have; none if nothing tells."""
    if isinstance(said := status.get("of"), int):
        return said
    try:
        steps = int(config["optim"]["steps"])
        return min(steps, int(config.get("max_steps") or steps))
    except (KeyError, TypeError, ValueError):
        return None


def changes_of(phase: Mapping[str, Any]) -> dict[str, Any]:
    """Of what a phase changes, the number of steps, which is written nested or dotted."""
    changes = phase.get("changes") or {}
    steps = changes.get("optim.steps") or (changes.get("optim") or {}).get("steps")
    return {"optim": {"steps": steps}} if steps else {}


def finite(value: Any) -> float | None:
    """A number; none for what is no finite one."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def read_config(path: Path) -> Mapping[str, Any]:
    try:
        return yaml_text.read(path)[0]
    except ConfigError:
        return {}


def read_facts(path: Path) -> dict[str, Any]:
    return read_status(path) or {}
