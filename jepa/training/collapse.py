"""Alarms of collapse, from the rows of metrics.csv.

    features    feature_std near 0: every token of every clip is the same
    clips       clip_std near 0, and it was not: tokens tell positions apart and no longer clips
    rank        effective_rank small beside the width, and a fraction of what it was: dimensional collapse
    prediction  prediction_std near 0 beside clip_std, and it was not: the predictor no longer looks at its context
    drop        the loss falls suddenly and stays there: targets became easy, which is partial collapse
    knn         the online nearest-neighbour probe loses what it had above chance

A rising loss is no alarm: that of a JEPA falls and then rises in a healthy run, as the targets hold more. Nor is a low
value by itself, where widths, depths and data differ more than health does: rank, clips, prediction and knn are held
against the highest value of the same run. And one row is none: a measure comes from one batch. So a condition must hold
in `health.alarm_rows` rows in a row. It is told once, and again only after as many rows in which it did not hold.

The thresholds were set on the demo, healthy and with collapse provoked (docs/log.md).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jepa.logs import get_logger
from jepa.training.health import HealthConfig

log = get_logger(__name__)

KNN = "online/knn/"
"""Before a task: column of the accuracy of the online nearest-neighbour probe."""
CHANCE = "online/chance/"
"""Before a task: column of what guessing would give."""
_BEFORE = 8  # rows that a drop of the loss is compared with
_HELD = 5  # rows for which a value counts as held: predictors of random weights are not constant at first either

_ADVICE = {
    "features": "go back to an earlier checkpoint; lower optim.learning_rate or raise optim.momentum",
    "clips": "go back to an earlier checkpoint; raise optim.momentum, lower optim.learning_rate or hide more (masks)",
    "rank": "see whether it recovers; else lower optim.learning_rate, lengthen the warm-up or raise optim.momentum",
    "prediction": "the predictor ignores what is seen: show it more (masks), lower optim.learning_rate",
    "drop": "look at effective_rank and clip_std; if they fell too, go back to an earlier checkpoint",
    "knn": "features lose what they had: go back to an earlier checkpoint, lower optim.learning_rate",
}


@dataclass(frozen=True)
class Alarm:
    """A sign of collapse."""

    name: str
    """Which; a key of the table above."""
    value: float
    threshold: float
    """What the value fell below."""
    message: str
    """One line: what is seen, and what to do."""


@dataclass(frozen=True)
class _Reading:
    """A measure of one row beside its threshold."""

    topic: str
    """A key of the table above."""
    subject: str
    """Of what, if there are several: images, or a task of the probes."""
    value: float
    threshold: float
    what: str

    @property
    def name(self) -> str:
        return f"{self.topic} {self.subject}".strip()

    @property
    def low(self) -> bool:
        return self.value < self.threshold


class CollapseWatch:
    """Takes the rows of a run, one after the other, and says when they show collapse.

    Steps of images and of videos are compared with their own kind. What it remembers belongs into the checkpoint.
    """

    def __init__(self, config: HealthConfig, width: int, clips: int = 0) -> None:
        """
        Args:
            config: thresholds.
            width: of the encoder's tokens.
            clips: that the measures of a row are of, as far as they are compared with earlier rows.
        """
        self.config = config
        self.width = width
        self.clips = clips
        self._highest: dict[str, float] = {}
        self._latest: dict[str, list[float]] = {}
        self._low: dict[str, int] = {}
        self._high: dict[str, int] = {}
        self._told: dict[str, str] = {}

    @property
    def active(self) -> tuple[str, ...]:
        """Messages of the alarms that have not ended."""
        return tuple(self._told.values())

    def feed(self, row: Mapping[str, float]) -> list[Alarm]:
        """The alarms that this row completes. What is missing or not a number is passed over."""
        readings = [
            *self._of_tokens(row, "images" if row.get("of_image") == 1.0 else ""),
            *self._of_loss(row.get("loss", math.nan)),
            *self._of_probes(row),
        ]
        return [alarm for reading in readings if (alarm := self._judge(reading, int(row["step"])))]

    def _of_tokens(self, row: Mapping[str, float], subject: str) -> list[_Reading]:
        config = self.config
        names = ("feature_std", "clip_std", "effective_rank", "prediction_std")
        deviation, clips, rank, prediction = (row.get(name, math.nan) for name in names)
        found = [_Reading("features", subject, deviation, config.least_std, "all tokens are alike: feature_std")]
        for topic, value, least, what in (
            ("clips", clips, config.least_clip_std, "clips are no longer told apart: clip_std"),
            ("rank", rank, config.least_rank * self.width, "features fill few directions: effective_rank"),
        ):
            threshold = min(least, self._highest_of(f"{topic} {subject}", value) / config.fall)
            found.append(_Reading(topic, subject, value, threshold, what))
        ratio = prediction / clips if clips > 0 else math.nan
        threshold = min(config.least_prediction, self._held(f"prediction {subject}", ratio) / config.fall)
        what = "predictions are alike for all clips: prediction_std / clip_std"
        found.append(_Reading("prediction", subject, ratio, threshold, what))
        return [reading for reading in found if not math.isnan(reading.value)]

    def _of_loss(self, loss: float) -> list[_Reading]:
        """The loss beside the eight rows before it fell; after an alarm the new level is where it starts from."""
        if not math.isfinite(loss):
            return []
        before, fallen = (self._latest.setdefault(name, []) for name in ("loss", "fallen loss"))
        if len(before) < _BEFORE:
            before.append(loss)
            return []
        reading = _Reading("drop", "", loss, self.config.drop * min(before), "the loss fell suddenly:")
        fallen.append(loss)
        if not reading.low:
            before += fallen
            del before[:-_BEFORE]
            fallen.clear()
        elif len(fallen) >= self.config.alarm_rows:
            before[:] = fallen[-_BEFORE:]
            fallen.clear()
        return [reading]

    def _of_probes(self, row: Mapping[str, float]) -> list[_Reading]:
        found = []
        for column, value in row.items():
            if not column.startswith(KNN) or math.isnan(value):
                continue
            task = column.removeprefix(KNN)
            chance = row.get(CHANCE + task, 0.0)
            gained = self._highest_of(column, value - chance)
            # Only what is clearly above chance can be lost: a tenth of the way to 1.
            lost = self.config.knn_fall > 0 and gained > 0.1 * (1 - chance)
            threshold = chance + self.config.knn_fall * gained if lost else -math.inf
            found.append(_Reading("knn", task, value, threshold, "nearest neighbours lose what they had:"))
        return found

    def _highest_of(self, name: str, value: float) -> float:
        """The highest value so far, with this one."""
        if not math.isnan(value):
            self._highest[name] = max(value, self._highest.get(name, value))
        return self._highest.get(name, math.nan)

    def _held(self, name: str, value: float) -> float:
        """The highest value that was reached in five rows in a row; 0 before there are five."""
        latest = self._latest.setdefault(name, [])
        if not math.isnan(value):
            latest.append(value)
            del latest[:-_HELD]
        return self._highest_of(name, min(latest) if len(latest) == _HELD else 0.0)

    def _judge(self, reading: _Reading, step: int) -> Alarm | None:
        name, rows = reading.name, self.config.alarm_rows
        self._low[name] = self._low.get(name, 0) + 1 if reading.low else 0
        self._high[name] = 0 if reading.low else self._high.get(name, 0) + 1
        if name in self._told:
            if self._high[name] >= rows:
                del self._told[name]
            return None
        if self._low[name] < rows:
            return None
        message = (
            f"collapse ({name}) at step {step}: {reading.what} {reading.value:.3g}, below {reading.threshold:.3g} "
            f"in {rows} rows; {_ADVICE[reading.topic]}"
        )
        self._told[name] = message
        return Alarm(name, reading.value, reading.threshold, message)

    def state_dict(self) -> dict[str, Any]:
        """What it remembers, as numbers, strings, lists and dicts."""
        return {
            "clips": self.clips,
            "highest": dict(self._highest),
            "latest": {name: list(values) for name, values in self._latest.items()},
            "low": dict(self._low),
            "high": dict(self._high),
            "told": dict(self._told),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Remember what `state_dict` gave; nothing, if the measures are now of other numbers of clips."""
        if state["clips"] != self.clips:
            log.info(
                "measures of collapse are now of %d clips, not %d: held against those to come",
                self.clips,
                state["clips"],
            )
            return
        self._highest = dict(state["highest"])
        self._latest = {name: list(values) for name, values in state["latest"].items()}
        self._low, self._high, self._told = dict(state["low"]), dict(state["high"]), dict(state["told"])
