"""A run folder, read for a page: whatever is there, and one line for each part that is not.

A report is looked at most when something went wrong, so nothing here is required and nothing damaged stops it: a
missing or unreadable file becomes a note. Only a folder that holds no trace of a run is refused. The stages of a demo
(`RUN/stages/NAME`) and the phases of a run (`RUN/NUMBER-NAME`) are run folders of their own. The latest phase stands
for the run, with the results and the weights in the folder of the whole; the phases before it are its stages.
"""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from jepa.errors import DataError

TRACES = ("config.yaml", "metrics.csv", "results.jsonl", "environment.json", "model.safetensors", "checkpoints")
"""Any one of these makes a folder a run folder."""


@dataclass(frozen=True)
class Score:
    """One line of results.jsonl: one measured accuracy."""

    task: str
    encoder: str
    probe: str
    value: float
    low: float
    high: float
    count: int
    """Test clips."""
    chance: float | None
    seed: int | None
    checkpoint: str
    """Hash of the weights that were probed."""
    classes: int | None
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What was chosen on held-out training clips, e.g. learning rate and weight decay."""
    data: str = ""
    """The data set, as it was named to the probe."""
    config: str = ""
    """Hash of the settings."""


@dataclass(frozen=True)
class Predictions:
    """What a probe said about every test clip."""

    classes: tuple[str, ...]
    truth: tuple[int, ...]
    predicted: tuple[int, ...]
    identity: tuple[int | None, str, str] | None = None
    """Seed, hash of the weights and hash of the settings they belong to; none if the file does not say."""

    def belong_to(self, score: Score) -> bool:
        """Whether these are the predictions behind a score, as far as the file tells."""
        return self.identity in (None, (score.seed, score.checkpoint, score.config))


@dataclass(frozen=True)
class Run:
    """Everything a run folder tells."""

    path: Path
    name: str
    config: Mapping[str, Any]
    """Resolved configuration; empty if there is none."""
    config_text: str
    environment: Mapping[str, Any]
    model: Mapping[str, Any]
    """The facts in config.json beside the weights."""
    metrics: Mapping[str, np.ndarray]
    """(rows,) per column of metrics.csv, ordered by step."""
    scores: tuple[Score, ...]
    predictions: Mapping[str, Predictions]
    """By TASK-ENCODER-PROBE."""
    stages: tuple["Run", ...]
    """Earlier stages, in order."""
    notes: tuple[str, ...]
    """What is missing or damaged, a line each."""

    def predictions_of(self, score: Score) -> Predictions | None:
        """The predictions behind a score, if they were kept."""
        found = self.predictions.get(predictions_name(score))
        return found if found and found.belong_to(score) else None


def predictions_name(score: Score) -> str:
    """Name of the file of predictions behind a score, without its ending."""
    return "-".join((score.task, score.encoder, score.probe)).replace("/", "_")


def is_run_folder(path: Path) -> bool:
    """Whether a run has left anything in the folder."""
    return path.is_dir() and any((path / trace).exists() for trace in TRACES)


def read_run(path: str | Path) -> Run:
    """Read a run folder.

    Raises:
        DataError: no such folder, or it holds nothing of a run.
    """
    folder = Path(path).expanduser()
    if not folder.exists():
        raise DataError(f"no such run folder: {folder}")
    if not is_run_folder(folder):
        raise DataError(f"{folder} is no run folder: it holds none of {', '.join(TRACES)}")
    notes: list[str] = []
    stages_folder = folder / "stages"
    stages = sorted(stages_folder.iterdir()) if stages_folder.is_dir() else []
    config_text = _text(folder / "config.yaml", notes)
    config = _yaml(config_text, folder / "config.yaml", notes)
    *before, latest = phases_of(folder, config) or [folder]
    if latest != folder:
        config = _yaml(_text(latest / "config.yaml", notes), latest / "config.yaml", notes)
    scores = read_scores(folder / "results.jsonl", notes)
    predictions = read_predictions(folder / "predictions", notes)
    notes += _strangers(scores, predictions)
    return Run(
        path=folder,
        name=folder.resolve().name,
        config=config,
        config_text=config_text,
        environment=_json(folder / "environment.json", notes),
        model=_json(folder / "config.json", notes if (folder / "model.safetensors").exists() else None),
        metrics=read_metrics(latest / "metrics.csv", notes),
        scores=scores,
        predictions=predictions,
        stages=tuple(read_run(stage) for stage in (*stages, *before) if is_run_folder(stage)),
        notes=tuple(notes),
    )


def phases_of(folder: Path, config: Mapping[str, Any]) -> list[Path]:
    """The folders of the phases that a run has begun, in order; none if it has no phases."""
    try:
        names = [f"{number}-{phase['name']}" for number, phase in enumerate(config.get("phases") or (), start=1)]
    except (TypeError, KeyError):  # damaged: what it says is not shown
        return []
    return [folder / name for name in names if is_run_folder(folder / name)]


def _strangers(scores: Sequence[Score], predictions: Mapping[str, Predictions]) -> list[str]:
    """A line for each file of predictions that belongs to another measurement than any the page shows."""
    shown = {predictions_name(score) for score in scores}
    own = {name for score in scores if (name := predictions_name(score)) in predictions
           and predictions[name].belong_to(score)}  # fmt: skip
    return [
        f"predictions/{name}.json is of another seed, weights, settings or data than the result shown, and left out"
        for name in sorted(shown & predictions.keys() - own)
    ]


def _text(path: Path, notes: list[str] | None) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        reason = "missing"
    except (OSError, UnicodeDecodeError) as error:
        reason = f"unreadable ({error})"
    if notes is not None:
        notes.append(f"{path.name} is {reason}")
    return ""


def _yaml(text: str, path: Path, notes: list[str]) -> dict[str, Any]:
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        notes.append(f"{path.name} is damaged ({' '.join(str(error).split())})")
        return {}
    return content if isinstance(content, dict) else {}


def _json(path: Path, notes: list[str] | None) -> dict[str, Any]:
    text = _text(path, notes)
    if not text:
        return {}
    try:
        content = json.loads(text)
    except ValueError as error:
        if notes is not None:
            notes.append(f"{path.name} is damaged ({error})")
        return {}
    return content if isinstance(content, dict) else {}


def read_metrics(path: Path, notes: list[str]) -> dict[str, np.ndarray]:
    """Columns of metrics.csv by name, ordered by step; the last row of a step counts; nan for empty cells."""
    rows = list(csv.DictReader(_text(path, notes).splitlines()))
    if not rows:
        if path.exists():
            notes.append(f"{path.name} holds no rows yet")
        return {}
    names = [name for name in rows[0] if name]
    if "step" not in names:
        notes.append(f"{path.name} has no column named step")
        return {}
    table = {name: np.array([_number(row.get(name)) for row in rows]) for name in names}
    steps = table["step"]
    last = {float(step): index for index, step in enumerate(steps) if np.isfinite(step)}
    order = [last[step] for step in sorted(last)]
    return {name: column[order] for name, column in table.items()}


def _number(text: object) -> float:
    try:
        return float(str(text))
    except ValueError:
        return float("nan")


def read_scores(path: Path, notes: list[str]) -> tuple[Score, ...]:
    """Results, the last line of each (task, encoder, probe, data), in the order in which these first occur."""
    found: dict[tuple[str, str, str, str], Score] = {}
    older = damaged = 0
    for line in _text(path, notes).splitlines():
        if not line.strip():
            continue
        score = _score(line)
        if score is None:
            damaged += 1
            continue
        cell = (score.task, score.encoder, score.probe, score.data)
        older += cell in found
        found[cell] = score
    if damaged:
        notes.append(f"{path.name}: {damaged} unreadable {'line is' if damaged == 1 else 'lines are'} left out")
    if older:
        notes.append(f"{path.name}: {older} earlier {'line is' if older == 1 else 'lines are'} left out for later ones")
    return tuple(found.values())


def _score(line: str) -> Score | None:
    try:
        entry = json.loads(line)
        if entry.get("metric", "accuracy") != "accuracy":
            return None
        classes = entry.get("classes")
        chance = entry.get("chance")
        return Score(
            task=str(entry["task"]),
            encoder=str(entry["encoder"]),
            probe=str(entry["probe"]),
            value=float(entry["value"]),
            low=float(entry["low"]),
            high=float(entry["high"]),
            count=int(entry["count"]),
            chance=None if chance is None else float(chance),
            seed=entry.get("seed"),
            checkpoint=str(entry.get("checkpoint_hash") or ""),
            config=str(entry.get("config_hash") or ""),
            classes=len(classes) if isinstance(classes, list) else classes,
            settings=entry.get("settings") or {},
            data=str(entry.get("data") or ""),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def read_predictions(folder: Path, notes: list[str]) -> dict[str, Predictions]:
    """Predictions of every probe by file name; the `truth` and `predicted` of a file are class numbers or names."""
    found = {}
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        entry = _json(path, notes)
        try:
            classes = tuple(str(name) for name in entry["classes"])
            truth, predicted = (_numbers(entry[name], classes) for name in ("truth", "predicted"))
        except (KeyError, ValueError, TypeError):
            notes.append(f"predictions/{path.name} is damaged")
            continue
        if len(truth) != len(predicted) or not truth or not classes:
            notes.append(f"predictions/{path.name} is damaged")
            continue
        found[path.stem] = Predictions(classes, truth, predicted, _identity(entry))
    return found


def _identity(entry: Mapping[str, Any]) -> tuple[int | None, str, str] | None:
    if not entry.keys() & {"seed", "checkpoint_hash", "config_hash"}:
        return None
    return entry.get("seed"), str(entry.get("checkpoint_hash") or ""), str(entry.get("config_hash") or "")


def _numbers(values: Iterable[int | str], classes: tuple[str, ...]) -> tuple[int, ...]:
    numbers = tuple(classes.index(value) if isinstance(value, str) else int(value) for value in values)
    if any(not 0 <= number < len(classes) for number in numbers):
        raise ValueError("a class number is out of range")
    return numbers
