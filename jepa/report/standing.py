"""How a run stands: read from its folder while it trains, or long after.

Nothing is asked of the run itself. Each file is whole at any time (status.json, the checkpoints) or is read up to its
last whole line (events.jsonl, metrics.csv), so reading does not disturb, and a run on another machine is read as well
as one here. What a file would have told is left out where there is none: runs of earlier versions have no status.json
and no events.jsonl.

A process that is killed does not say so. "running" in status.json therefore counts only if the process that wrote it
is still there (`holder.py`), or if its last sign is fresh where that cannot be told.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, get_args

from jepa.errors import DataError
from jepa.report.collect import is_run_folder, phases_of
from jepa.report.holder import Holder, find_holder
from jepa.report.traces import (
    Saved,
    Start,
    alarms_of,
    changes_of,
    count,
    finite,
    last_sign,
    line,
    newest_checkpoint,
    read_config,
    read_facts,
    starts_of,
    steps_of,
)
from jepa.training.events import EventsFile
from jepa.training.metrics import MetricsFile
from jepa.training.stall import stacks_in
from jepa.training.status import State as Said

State = Literal["new", "running", "silent", "stopped", "killed", "failed", "finished", "unfinished"]
"""new: nothing done yet. silent: says that it runs, but has given no sign for long, and whether its process lives
cannot be told from here. killed: said that it runs, and its process is gone. unfinished: nothing says why."""

QUIET = 600.0
"""Seconds without a sign after which a run counts as silent, or as hanging."""
COUNTED = ("skip", "rollback", "alarm", "straggler", "stall", "recompile")
"""Kinds of events that say something about the health of a run."""
WATCHED = ("grad_norm", "feature_std", "clip_std", "effective_rank", "online/")
"""Columns of metrics.csv that do, or what they start with."""


@dataclass(frozen=True)
class Standing:
    """What is known of a run."""

    run: str
    state: State
    reason: str | None
    """Why it stopped or failed, if it says so; or what of it is missing."""
    step: int
    of: int | None
    clips_per_second: float | None
    seconds_left: float | None
    """At the latest rate."""
    loss: float | None
    watched: dict[str, float]
    """The other values of the latest row of metrics.csv that tell health."""
    checkpoint: Saved | None
    starts: tuple[Start, ...]
    events: dict[str, int]
    """How often each of `COUNTED` has happened, if it has."""
    alarms: tuple[str, ...]
    """What is wrong now, or was in the latest alarm."""
    stacks: tuple[str, ...]
    """Files with the stacks of processes that hung."""
    sign: str | None
    """When the run has last written anything."""
    ranks: int | None
    holder: Holder | None
    resume: str
    """What to type to continue it."""
    phases: tuple["Standing", ...]


def read_standing(folder: Path, *, now: datetime | None = None, whole: Path | None = None) -> Standing:
    """Read a run folder.

    Args:
        folder: of a run, also one with phases, or of a phase.
        now: to which silence is measured; the time when none.
        whole: folder of the run that this one is a phase of.

    Raises:
        DataError: no such folder, or it holds nothing of a run.
    """
    if not folder.is_dir():
        raise DataError(f"no such run folder: {folder}")
    status = read_facts(folder / "status.json")
    if not status and not is_run_folder(folder):
        raise DataError(f"{folder} is no run folder: nothing of a run is in it")
    config, now, whole = read_config(folder / "config.yaml"), now or datetime.now().astimezone(), whole or folder
    begun = [path for path in phases_of(folder, config) if path != folder]
    phases = tuple(read_standing(path, now=now, whole=whole) for path in begun)
    one = _of_one(folder, status, config, now, f"jepa pretrain --config {whole / 'config.yaml'} --resume")
    return _of_phases(one, phases, config) if phases else one


def _of_one(folder: Path, status: Mapping[str, Any], config: Mapping[str, Any], now: datetime, resume: str) -> Standing:
    """Of a run, or a phase, without phases."""
    rows, events = _rows(folder / "metrics.csv"), _events(folder / "events.jsonl")
    latest, saved = rows[-1] if rows else {}, newest_checkpoint(folder / "checkpoints")
    model = read_facts(folder / "config.json")
    model_step = (count(model.get("step")) or 0) if (folder / "model.safetensors").exists() else 0
    done = [count(status.get("step")), latest.get("step"), saved and saved.step, model_step]
    step, of = int(max(number or 0 for number in done)), steps_of(config, status)
    holder, sign = find_holder(folder, status), last_sign(folder, status)
    unsaid: State = "unfinished" if step else "new"
    if model_step and model_step >= max(step, of or 0):
        unsaid = "finished"
    state, reason = _state(status, holder, sign, now, unsaid), line(status.get("reason"))
    if state == "finished" and unsaid != "finished":
        # Also if it says otherwise: it was ended between its last step and the model, or the model was removed.
        state, reason = "unfinished", f"its model of step {step} is missing"
    rate = finite(status.get("clips_per_second")) or finite(latest.get("clips_per_second"))
    return Standing(
        run=str(folder),
        state=state,
        reason=reason if state in ("stopped", "failed", "unfinished") else None,
        step=step,
        of=of,
        clips_per_second=rate,
        seconds_left=None if state == "finished" else _left(latest, rate, step, of),
        loss=finite(status.get("loss")) or finite(latest.get("loss")),
        watched={
            line(name) or name: value
            for name, value in latest.items()
            if name.startswith(WATCHED) and finite(value) is not None
        },
        checkpoint=saved,
        starts=starts_of(folder, events, going_on=state in ("running", "silent", "finished")),
        events={kind: times for kind in COUNTED if (times := sum(event["kind"] == kind for event in events))},
        alarms=alarms_of(status, events),
        stacks=tuple(filter(None, map(line, map(str, stacks_in(folder / "stacks"))))),
        sign=sign.isoformat(timespec="seconds") if sign else None,
        ranks=count(status.get("ranks")),
        holder=holder,
        resume=resume,
        phases=(),
    )


def _of_phases(whole: Standing, phases: tuple[Standing, ...], config: Mapping[str, Any]) -> Standing:
    """Of a run with phases: as far as all of them together, and else as its latest one."""
    listed = config.get("phases")
    planned = listed if isinstance(listed, list) else []
    now, counts = phases[-1], [steps_of({**config, **changes_of(phase)}, {}) for phase in planned]
    every = None if None in counts else sum(filter(None, counts))
    state = now.state
    if state == "finished" and not (len(phases) == len(counts) and whole.step):  # there is no model of the whole yet
        state = "running" if whole.holder and whole.holder.alive else "unfinished"
    events: dict[str, int] = {}
    for phase in phases:
        events |= {kind: events.get(kind, 0) + times for kind, times in phase.events.items()}
    return replace(
        now,
        run=whole.run,
        state=state,
        reason=now.reason if state == now.state else None,
        step=sum(phase.step for phase in phases),
        of=every,
        events=events,
        starts=whole.starts,
        holder=now.holder or whole.holder,
        phases=phases,
    )


def _state(
    status: Mapping[str, Any], holder: Holder | None, sign: datetime | None, now: datetime, unsaid: State
) -> State:
    """The state; `unsaid` if the run does not say."""
    said: Said | None = status.get("state") if status.get("state") in list(get_args(Said)) else None
    if holder and holder.alive and (holder.locks or said == "running"):
        return "running"
    if said is None:
        return unsaid
    if said != "running":
        return said
    if holder and holder.alive is False:
        return "finished" if unsaid == "finished" else "killed"
    # A sign from the future, as of a clock that is ahead, is no fresh one.
    return "running" if sign and -QUIET < (now - sign).total_seconds() < QUIET else "silent"


def _left(latest: Mapping[str, float], rate: float | None, step: int, of: int | None) -> float | None:
    """Seconds for the rest of the steps, with as many clips in each as there were on average."""
    if rate is None or rate <= 0 or of is None or not latest.get("step") or not latest.get("position"):
        return None
    return finite(max(0, of - step) * latest["position"] / latest["step"] / rate)


def _rows(path: Path) -> list[dict[str, float]]:
    try:
        return MetricsFile(path).read()
    except DataError:
        return []


def _events(path: Path) -> list[dict[str, Any]]:
    try:
        return EventsFile(path).read()
    except OSError:
        return []
