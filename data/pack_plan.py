"""What a pack is going to do, in a form that can be compared: is this the pack that was begun here?

A pack that was stopped may only be continued by the same one. So its plan is kept: the settings that change the result,
as they are, and two hashes of 8 bytes for each entry. One is over what was asked (path, label, split, segment), the
other over the state of its file (size, time of change). That is 160 MB for ten million videos, and tells which
videos differ, and how. Not in the plan: the number of workers, and where the folder lies.
"""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from jepa.data.digests import key_hash
from jepa.data.lists import Entry
from jepa.data.source import printable

STATS_AT_ONCE = 8
"""Files that are looked at side by side: on a network file system each look is a wait."""
CHUNK = 4096
NAMED = 3
"""Differences that a message names."""


@dataclass(frozen=True, eq=False)
class PackPlan:
    """Settings, and a fingerprint of each entry."""

    settings: Mapping[str, object]
    """Name -> value as in JSON; all that changes the result."""
    splits: tuple[str, ...]
    """Names of the sub-folders that are written to; none if it is the folder itself."""
    asked: np.ndarray
    """uint64 (entries,): hashes of what is asked."""
    states: np.ndarray
    """uint64 (entries,): hashes of the state of the files."""


def make_plan(entries: Sequence[Entry], splits: Sequence[str | None], settings: Mapping[str, object]) -> PackPlan:
    """The plan of a pack; looks at every file once.

    Args:
        splits: of each entry; None if there are no splits.
    """
    chunks = [entries[start : start + CHUNK] for start in range(0, len(entries), CHUNK)]
    with ThreadPoolExecutor(STATS_AT_ONCE) as pool:
        states = [hashed for chunk in pool.map(_states, chunks) for hashed in chunk]
    asked = [_asked(entry, split) for entry, split in zip(entries, splits, strict=True)]
    # Through JSON, so that it equals what is read back from a file
    plain = json.loads(json.dumps(settings, default=str))
    names = tuple(sorted({split for split in splits if split is not None}))
    return PackPlan(plain, names, _array(asked), _array(states))


def settings_difference(old: PackPlan, new: PackPlan) -> str | None:
    """Which settings are not those of the old plan, in words."""
    names = [name for name in {**old.settings, **new.settings} if old.settings.get(name) != new.settings.get(name)]
    parts = [f"{name} was {_shown(old.settings.get(name))}, now {_shown(new.settings.get(name))}" for name in names]
    return ", ".join(_shortened(parts)) or None


def list_difference(old: PackPlan, new: PackPlan, entries: Sequence[Entry]) -> str | None:
    """How the list of videos is not that of the old plan, in words; `entries` are those of the new one."""
    common = min(len(old.asked), len(new.asked))
    other = np.flatnonzero(old.asked[:common] != new.asked[:common]).tolist()
    if len(old.asked) != len(new.asked):
        first = other[0] if other else common
        where = f"from {printable(entries[first].path)} on" if first < len(entries) else "at its end"
        return f"a list of {len(old.asked)} videos, now {len(new.asked)}, different {where}"
    if other:
        named = ", ".join(_shortened([printable(entries[number].path) for number in other]))
        return f"another path, label, split or segment for {len(other)} of {len(entries)} videos: {named}"
    return None


def changed_sources(old: PackPlan, new: PackPlan, entries: Sequence[Entry]) -> str | None:
    """Which videos have another size or time of change than in the old plan, in words."""
    other = np.flatnonzero(old.states != new.states).tolist()
    paths = list(dict.fromkeys(printable(entries[number].path) for number in other))
    return f"{len(paths)} of its videos changed since: {', '.join(_shortened(paths))}" if paths else None


def _asked(entry: Entry, split: str | None) -> int:
    facts = [
        str(entry.path.absolute()), entry.name, entry.label, split, dict(entry.more), entry.segment, entry.frame_rate
    ]  # fmt: skip
    return key_hash(json.dumps(facts))


def _states(entries: Sequence[Entry]) -> list[int]:
    @cache  # the parts of a film follow each other
    def state(path: Path) -> int:
        try:
            status = path.stat()
        except OSError as error:
            return key_hash(f"{error.errno or 0}")
        return key_hash(f"{status.st_size} {status.st_mtime_ns}")

    return [state(entry.path) for entry in entries]


def _array(hashes: list[int]) -> np.ndarray:
    return np.array(hashes, "<u8")


def _shortened(parts: list[str]) -> list[str]:
    more = len(parts) - NAMED
    return parts if more <= 0 else [*parts[:NAMED], f"and {more} more"]


def _shown(value: object) -> str:
    return "none" if value is None else str(value)
