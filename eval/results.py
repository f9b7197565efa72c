"""Results: one JSON object a line in `results.jsonl` of a run folder, and the predictions behind each.

A line says what was measured (task, encoder, probe, metric), the value with its 95 % interval, on how many
clips, and what it depends on (seed, hash of the settings, hash of the weights). Measuring the same thing again
replaces its line where it stands; anything else is appended. Reports only read these files.

Predictions are kept for the latest measurement of each (task, encoder, probe), in one file that says by seed and
hashes which measurement that is.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from jepa.checkpoints.io import atomic_write
from jepa.errors import DataError

RESULTS, PREDICTIONS = "results.jsonl", "predictions"
IDENTITY = ("seed", "checkpoint_hash", "config_hash")
"""What tells measurements of one task, encoder and probe apart."""
_KEY = ("task", "encoder", "probe", "metric", *IDENTITY)


@dataclass(frozen=True)
class Result:
    """One measured fact."""

    task: str
    encoder: str
    """pretrained, reconstruction, random, pixels, or another name given to the encoder."""
    probe: str
    """linear, attentive, knn or segmentation."""
    metric: str
    """accuracy; of segmentation mean_iou, token_accuracy and average_precision."""
    value: float
    """Fraction 0..1, as are `low`, `high` and `chance`."""
    low: float
    high: float
    """95 % interval for the finite number of test clips."""
    count: int
    """Test clips."""
    seed: int
    config_hash: str
    """Of everything but the weights that the value depends on: clips, window, probe settings."""
    checkpoint_hash: str
    classes: int
    """Classes to choose from."""
    chance: float
    """What answering without looking reaches."""
    settings: Mapping[str, float | int | str | None] = field(default_factory=dict)
    """What was chosen on the validation part, and the accuracy there."""
    data: str = ""

    @property
    def key(self) -> tuple[str | int, ...]:
        """What makes two results measurements of the same thing."""
        return tuple(getattr(self, name) for name in _KEY)


@dataclass(frozen=True)
class Predictions:
    """What a probe answered on the test clips."""

    classes: tuple[str, ...]
    truth: tuple[int, ...]
    predicted: tuple[int, ...]


def record(folder: Path, result: Result, predictions: Predictions | None = None) -> None:
    """Write a result into a run folder, in place of one with the same key, and its predictions.

    Raises:
        ConfigError: the folder cannot be written.
        DataError: the results there cannot be read.
    """
    results = {known.key: known for known in read_results(folder)}
    results[result.key] = result  # a known key keeps its place
    lines = [json.dumps(asdict(known), allow_nan=False) for known in results.values()]
    _write(folder / RESULTS, "\n".join(lines) + "\n")
    if predictions is not None:
        content = asdict(predictions) | {name: getattr(result, name) for name in IDENTITY}
        _write(predictions_path(folder, result), json.dumps(content) + "\n")


def predictions_path(folder: Path, result: Result) -> Path:
    """Where predictions of this task, encoder and probe lie: those of whichever was measured last."""
    name = "-".join((result.task, result.encoder, result.probe))
    return folder / PREDICTIONS / f"{name.replace('/', '_')}.json"


def read_results(folder: Path) -> list[Result]:
    """Results of a run folder, in the order they were first measured; none if there is no file.

    Raises:
        DataError: a line is no result.
    """
    path = folder / RESULTS
    if not path.is_file():
        return []
    names = {item.name for item in fields(Result)}
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            content = json.loads(line)
            found.append(Result(**{name: value for name, value in content.items() if name in names}))
        except (ValueError, TypeError, AttributeError) as error:
            raise DataError(f"{path}, line {number} is no result ({error}); remove the line") from error
    return found


def read_predictions(folder: Path, result: Result) -> Predictions:
    """Predictions behind a result.

    Raises:
        DataError: the file is missing or damaged, or holds those of another seed, other settings or other weights.
    """
    path = predictions_path(folder, result)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = Predictions(tuple(content["classes"]), tuple(content["truth"]), tuple(content["predicted"]))
        other = [name for name in IDENTITY if content[name] != getattr(result, name)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} holds no predictions ({error}); run jepa probe again") from error
    if other:
        raise DataError(f"{path} is of another measurement (other {', '.join(other)}); run jepa probe again")
    return found


def as_json(results: Iterable[Result]) -> str:
    """A JSON list of results."""
    return json.dumps([asdict(result) for result in results], indent=2)


def table(results: Sequence[Result]) -> str:
    """Results as aligned text, values in per cent, in blocks of one task; metrics other than accuracy are named."""
    value = "accuracy" if all(result.metric == "accuracy" for result in results) else "value"
    head = ("task", "encoder", "probe", value, "95 % interval", "clips", "chance")
    tasks = list(dict.fromkeys(result.task for result in results))
    rows = [_row(result) for task in tasks for result in results if result.task == task]
    widths = [max(len(cell) for cell in column) for column in zip(head, *rows, strict=True)]
    return "\n".join(_line(row, widths) for row in (head, tuple("-" * width for width in widths), *rows))


def _row(result: Result) -> tuple[str, ...]:
    interval = f"{100 * result.low:.1f} to {100 * result.high:.1f}"
    numbers = f"{100 * result.value:.1f} %", interval, str(result.count), f"{100 * result.chance:.1f} %"
    probe = result.probe if result.metric == "accuracy" else f"{result.probe}, {result.metric}"
    return result.task, result.encoder, probe, *numbers


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Names to the left, numbers to the right."""
    placed = [
        cell.ljust(width) if number < 3 else cell.rjust(width)
        for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join(placed).rstrip()


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as file:
        file.write(text.encode())
