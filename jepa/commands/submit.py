"""Writes the batch script of a pretraining run, keeps code and configuration as they are now, and gives it to Slurm.
Behind the options stands the command that the job runs, as it would be typed here. The job continues the run if there
is one, so that after it was stopped and put back into the queue it goes on where it was.

docs/slurm.md tells what to set, from one GPU to many machines.
"""

import json
import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from jepa.arguments import parse
from jepa.commands import pretrain
from jepa.config import changed
from jepa.data.source import is_there
from jepa.errors import ConfigError
from jepa.logs import get_logger
from jepa.slurm import queue, snapshot
from jepa.slurm.follow import follow
from jepa.slurm.job import JobConfig
from jepa.slurm.places import folders, inputs
from jepa.slurm.script import Script
from jepa.slurm.values import array_tasks, time_limit
from jepa.training.config import PretrainConfig
from jepa.training.run_folder import RunFolder, open_run, with_absolute_paths

SUMMARY = "Submit a pretraining run to Slurm: script, snapshot of the code, requeueing"
EXAMPLE = (
    "jepa submit --nodes 2 --gpus-per-node 8 --time 24:00:00 -- pretrain --config demo --data data/physics --out runs/a"
)
REST = "command"

log = get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Config(JobConfig):
    """A job for Slurm."""

    command: tuple[str, ...]
    """What to run: `pretrain` and its options, as they would be typed for a run on this machine."""
    dry_run: bool = False
    """Print the script and do nothing."""
    follow: bool = False
    """After submission, show the log until the job has ended; Ctrl-C stops showing, not the job."""
    json: bool = False
    """Print job, script, log and folder as JSON."""


def run(config: Config) -> int:
    """Submit, and say how to follow and to stop the job.

    Raises:
        ConfigError: options or configuration that cannot be right, or a job that Slurm refuses.
    """
    if config.command[:1] != ("pretrain",):
        raise ConfigError(f"cannot submit '{config.command[0] if config.command else ''}', only pretrain: {EXAMPLE}")
    given: PretrainConfig | None = parse("pretrain", pretrain, config.command[1:])
    if given is None:  # --print-config
        return 0
    wanted = with_absolute_paths(changed(given, {"run.requeue": given.run.requeue and config.requeue}))
    _require_startable(config, wanted)
    folder = snapshot.new_folder(wanted.out, make=not config.dry_run)
    script = Script(
        job=replace(config, requeue=wanted.run.requeue),
        run=wanted,
        folder=folder,
        code=None if snapshot.is_installed() else folder / "code",
    )
    if config.dry_run:
        print(script.text(), end="")
        return 0
    snapshot.keep(script)
    try:
        number = queue.submit(script.path, script.options())
    except queue.NoAnswer:
        raise  # a job that is in the queue needs its files
    except ConfigError:
        snapshot.discard(script)
        raise
    shown = script.log(f"{number}_{array_tasks(config.array)[0]}" if config.array else number)
    print(json.dumps(_facts(script, number, shown), indent=2) if config.json else _sentences(script, number, shown))
    _warn(number)
    if not config.follow:
        return 0
    return 0 if follow(number, shown) == "COMPLETED" else 1


def _require_startable(config: Config, wanted: PretrainConfig) -> None:
    """Say now what the job would otherwise find out after hours in the queue."""
    processes = config.nodes * config.tasks
    batches = {"loader.batch_size": wanted.loader.batch_size}
    if wanted.images.data is not None:
        batches["images.batch_size"] = wanted.images.batch_size
    for name, clips in batches.items():
        if clips % processes:
            raise ConfigError(
                f"{name} {clips} does not divide among {processes} processes ({config.nodes} nodes with {config.tasks} "
                "each): use a multiple"
            )
    limit = None if config.time is None else time_limit(config.time)
    if limit is not None and wanted.run.stop_before >= limit:
        raise ConfigError(
            f"run.stop_before is {wanted.run.stop_before:g} seconds, and the time limit {config.time} is {limit}: the "
            "job would stop as soon as it starts, again and again; give it more time, or less to run.stop_before"
        )
    for place in dict.fromkeys((*inputs(wanted), *folders(wanted))):
        if not str(place).isprintable():
            raise ConfigError(f"the path {str(place)!r} has a line break or another sign that cannot stand in a script")
    if config.setup is not None and not config.setup.is_file():
        raise ConfigError(f"setup: no file {config.setup}")
    if config.follow and config.array is not None:
        raise ConfigError("--follow shows one log, but the job of an array has one per task: leave one of both out")
    for place in inputs(wanted):
        if not is_there(place):
            log.warning("%s is not there as seen from this machine; the job must see it", place)
    outs = [wanted.out] if config.array is None else [wanted.out / f"seed-{n}" for n in array_tasks(config.array)]
    for out in outs:
        if RunFolder(out).holds_run():
            seed = wanted.seed if config.array is None else int(out.name.removeprefix("seed-"))
            open_run(changed(wanted, {"out": out, "seed": seed, "resume": True}))


def _facts(script: Script, number: str, shown: Path) -> dict[str, str]:
    return {"job": number, "run": str(script.run.out), "script": str(script.path), "log": str(shown)}


def _sentences(script: Script, number: str, shown: Path) -> str:
    array = script.job.array
    run = f"{script.run.out}/seed-{array_tasks(array)[0]}" if array else str(script.run.out)
    saved = "saves and goes back into the queue" if script.job.requeue else "saves and ends"
    words = [shlex.quote(text) for text in (str(script.path), str(shown), run)]
    return "\n".join(
        [
            f"job      {number}{f', tasks {array}' if array else ''}",
            f"script   {words[0]}",
            f"log      {words[1]}",
            f"follow   tail -F {words[1]}",
            f"         squeue --jobs {number}",
            f"         jepa status {words[2]}",
            f"stop     scancel {number}                  for good; the state is saved if that is quick (KillWait)",
            f"         scancel --signal=USR1 {number}    {saved}",
        ]
    )


def _warn(number: str) -> None:
    """Say so if Slurm has taken the job, but waiting will not start it."""
    name, reason = queue.state(number)
    if name == "PENDING" and reason in queue.NEVER:
        log.warning("job %s will not start as it is (%s): scancel %s, and submit it otherwise", number, reason, number)
