"""Tells how a run stands: how far it is, how fast, its last checkpoint, what started and ended it, its health, and, if
it is not running, the command that continues it. Reads files only, of a run on any machine, also while it trains.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from jepa.report.standing import QUIET, Standing, read_standing

SUMMARY = "Tell how a run stands: step, rate, last checkpoint, starts, health"
EXAMPLE = "jepa status runs/first"
POSITIONAL = ("run",)

SHOWN_STARTS = 5
"""Starts that are listed, the latest ones."""
NAMES = {"skip": "skipped step", "rollback": "rollback", "alarm": "alarm", "straggler": "straggler", "stall": "stall",
         "recompile": "recompilation"}  # fmt: skip


@dataclass(frozen=True)
class Config:
    run: Path
    """Run folder."""
    json: bool = False
    """Print the result as JSON."""


def run(config: Config) -> int:
    """Print what is known."""
    standing = read_standing(config.run.expanduser())
    print(json.dumps(asdict(standing), indent=2) if config.json else "\n".join(_lines(standing, _now())))
    return 0


def _lines(standing: Standing, now: datetime) -> Iterator[str]:
    yield _printable(f"{standing.run}: {_state(standing, now)}")
    for name, text in _facts(standing, now):
        yield _printable(f"  {name:<11} {text}".rstrip())


def _printable(text: str) -> str:
    """Names of folders can hold anything; nothing here steers a terminal."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)


def _state(standing: Standing, now: datetime) -> str:
    """The state, how sure that is, and whether Slurm will go on with it."""
    holder, quiet = standing.holder, _age(standing.sign, now)
    who = holder.text if holder else "its process"
    match standing.state:
        case "running" if standing.sign and (now - datetime.fromisoformat(standing.sign)).total_seconds() > QUIET:
            text = f"running, but its last sign is {quiet} old and {who} is alive: it may hang"
        case "killed":
            text = f"killed: it says running, but its last sign is {quiet} old and {who} is gone"
        case "silent" if standing.sign and datetime.fromisoformat(standing.sign) > now:
            text = f"silent: it says running, but its last sign is of the future ({standing.sign}); look for {who}"
        case "silent":
            text = f"silent: it says running, but its last sign is {quiet} old; look for {who}"
        case "new":
            text = "nothing done yet"
        case state:
            reason = (standing.reason or "").removeprefix(f"{state} ")
            text = f"{state}{' ' if standing.reason != reason else ': '}{reason}" if reason else state
    queued = holder and holder.job_state == "PENDING" and standing.state in ("stopped", "killed", "failed")
    return f"{text}; job {holder.job} is in the queue" if holder and queued else text


def _facts(standing: Standing, now: datetime) -> Iterator[tuple[str, str]]:
    yield "step", _progress(standing)
    for phase in standing.phases:
        yield "", f"{Path(phase.run).name}: {phase.step}{f' of {phase.of}' if phase.of else ''}, {phase.state}"
    if standing.loss is not None:
        watched = (f"{name} {value:.4g}" for name, value in standing.watched.items())
        yield "loss", ", ".join((f"{standing.loss:.4g}", *watched))
    if saved := standing.checkpoint:
        step = "unreadable" if saved.step is None else f"step {saved.step}"
        yield "checkpoint", f"{step}, {_age(saved.time, now)} old, {_size(saved.bytes)}, {saved.path}"
    else:
        yield "checkpoint", "none"
    if standing.starts:
        yield "starts", str(len(standing.starts))
    for start in standing.starts[-SHOWN_STARTS:]:
        ended = f"; {start.ended}" if start.ended else ""
        yield "", f"{start.time[:19].replace('T', ' ')} from step {start.step}{ended}"
    yield "health", _health(standing)
    if standing.stacks:
        yield "stacks", f"a process hung; where is in {', '.join(standing.stacks)}"
    if standing.holder and standing.state in ("running", "silent"):
        ranks = f", rank 0 of {standing.ranks}" if standing.ranks and standing.ranks > 1 else ""
        yield "where", f"{standing.holder.text}{ranks}"
    if standing.state in ("stopped", "killed", "failed", "unfinished"):
        yield "continue", standing.resume


def _progress(standing: Standing) -> str:
    parts = [f"{standing.step}"]
    if standing.of:
        parts = [f"{standing.step} of {standing.of} ({standing.step / standing.of:.1%})"]
    if standing.clips_per_second:
        parts.append(f"{standing.clips_per_second:.4g} clips/s")
    if standing.seconds_left and standing.state == "running":
        parts.append(f"about {_duration(standing.seconds_left)} left")
    return ", ".join(parts)


def _health(standing: Standing) -> str:
    counts = [f"{count} {NAMES[kind]}{'s' * (count > 1)}" for kind, count in standing.events.items()]
    return "; ".join((*([", ".join(counts)] if counts else []), *standing.alarms)) or "nothing happened"


def _age(time: str | None, now: datetime) -> str:
    return "of unknown age" if time is None else _duration((now - datetime.fromisoformat(time)).total_seconds())


def _duration(seconds: float) -> str:
    """Two units at most: "40 s", "12 min", "7 h 50 min", "3 d 4 h"."""
    minutes = round(seconds / 60)
    if seconds < 120:
        return f"{max(0, seconds):.0f} s"
    if minutes < 120:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def _now() -> datetime:
    return datetime.now().astimezone()
