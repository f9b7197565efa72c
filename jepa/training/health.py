"""Whether a step is applied: what is done about numbers that are not finite, and about a loss that leaps.

A loss or gradient that is not finite, once applied, is in the weights, in the optimizer's moments and in the target
encoder, and stays there. So the step is judged before anything is changed, by numbers that all ranks share, and all
ranks come to the same verdict. Bad steps in a row mean more than bad steps:

    the first                  skip: nothing is changed, the next step has other clips (a damaged clip, an overflow)
    the `rollback_after`-th    roll back: weights, moments and target encoder of the newest checkpoint; the step goes
                               on, so the clips are not seen again (as in PaLM, arXiv 2204.02311, section 5.1)
    the `stop_after`-th        stop: it is neither these clips nor these weights

A leap of the loss can be skipped too (`spike`). It is measured in deviations above what the latest applied steps had,
as in OLMo-core, the code of OLMo 2 (arXiv 2501.00656; 6 deviations above the mean of 128 losses there), but from median
and median absolute deviation: a few leaps cannot move these, and a value that is not finite never enters them. A JEPA
loss rises slowly in a healthy run, and the window follows it. A skipped leap is no divergence: it neither adds to the
bad steps in a row nor ends their row. And what follows `spike_limit` leaps in a row is no leap but a new level (other
data, another weight of a term): it is accepted, and the window starts again.
"""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from jepa.errors import ConfigError

_NORMAL = 1.4826  # deviations per median absolute deviation, of normally distributed values
_LEAST = 0.01  # of the median: a loss that hardly varies has no leaps below `spike` times this


@dataclass(frozen=True)
class HealthConfig:
    """What is done about steps that are not finite, about leaps of the loss, and about collapse."""

    rollback_after: int | None = 2
    """Steps in a row with a loss or gradient that is not finite after which weights and optimizer return to the newest
    checkpoint, while the data goes on; fewer are only skipped. None: never."""
    stop_after: int = 3
    """Such steps in a row after which the run ends with exit code 4."""
    rollbacks: int = 3
    """Returns to a checkpoint within 1000 steps; a further one ends the run."""
    spike: float | None = None
    """Skip a step whose loss is so many deviations above the median of the latest applied ones (OLMo 2: 6); none: apply
    whatever is finite."""
    spike_window: int = 128
    """How many applied steps these are; nothing is skipped before there are half as many."""
    spike_limit: int = 5
    """Steps skipped so in a row after which their loss counts as a new level, and is accepted."""
    alarm_rows: int = 3
    """Rows of metrics.csv in a row that must show collapse before there is an alarm."""
    least_std: float = 0.05
    """Alarm below this feature_std: all tokens are the same. Tokens are LayerNormed, so a healthy one is near 1."""
    least_clip_std: float = 0.1
    """Alarm below this clip_std, if it has been `fall` times higher: tokens no longer tell clips apart."""
    least_rank: float = 0.1
    """Alarm below this effective_rank, as a share of the width, if it has been `fall` times higher."""
    least_prediction: float = 0.1
    """Alarm below this ratio of prediction_std to clip_std, if it has been `fall` times higher for five rows."""
    fall: float = 4.0
    """How many times lower than it has been a measure must be to count as fallen; the first rows of a run differ."""
    drop: float = 0.5
    """Alarm when the loss is below this share of the least of the eight rows before: learning is not so sudden."""
    knn_fall: float = 0.5
    """Alarm when the accuracy of the online kNN probe, above chance, is below this share of its highest."""
    stop_on_alarm: bool = False
    """End the run with exit code 4 at an alarm of collapse, its state saved; else alarms are warnings."""

    def __post_init__(self) -> None:
        for name in ("rollback_after", "stop_after", "spike_limit", "alarm_rows"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"health.{name} is {value}, expected at least 1")
        if self.rollbacks < 0:
            raise ConfigError(f"health.rollbacks is {self.rollbacks}, expected 0 or more")
        if self.rollback_after is not None and self.rollback_after >= self.stop_after:
            raise ConfigError(
                f"health.rollback_after is {self.rollback_after}, but the run ends after health.stop_after "
                f"{self.stop_after}: expected a smaller one, or none"
            )
        if self.spike is not None and not 0 < self.spike < math.inf:
            raise ConfigError(f"health.spike is {self.spike}, expected deviations above 0, or none")
        if self.spike_window < 8:
            raise ConfigError(f"health.spike_window is {self.spike_window}, expected at least 8 steps")
        for name in ("least_std", "least_clip_std", "least_rank", "least_prediction", "drop", "knn_fall"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(
                    f"health.{name} is {getattr(self, name)}, expected 0 (no such alarm) or a share below 1"
                )
        if not self.fall >= 1:
            raise ConfigError(f"health.fall is {self.fall}, expected 1 or more")


class Verdict(Enum):
    """What is done with a step."""

    APPLY = "apply"
    SKIP = "skip"
    """Nothing is changed."""
    ROLL_BACK = "rollback"
    """Not applied, and the state of the newest checkpoint comes back; where there is none yet, it is as SKIP."""
    STOP = "stop"
    """Not applied, and the run ends."""


_APART = 1000  # steps within which returns to a checkpoint are counted


class StepHealth:
    """Judges the steps of a run, one after the other.

    What it remembers belongs into the checkpoint, for a resumed run to judge as one that was never stopped; but a
    rollback must not bring an older memory back.
    """

    def __init__(self, config: HealthConfig) -> None:
        self.config = config
        self.reason = ""
        """Why the latest step was not simply applied; empty if it was."""
        self._bad = 0
        self._rollbacks: list[int] = []
        self._applied: dict[str, list[float]] = {}
        self._leaps: dict[str, int] = {}

    @property
    def bad_in_a_row(self) -> int:
        """Latest steps in a row that were not finite."""
        return self._bad

    def judge(self, step: int, loss: float, finite: bool, kind: str = "") -> Verdict:
        """What to do with a step, before anything has changed.

        Args:
            step: its number.
            loss: mean over all ranks and parts of the batch.
            finite: whether loss and gradients are finite on all ranks.
            kind: of its batch, where losses of several kinds have levels of their own (images, videos).
        """
        self.reason = ""
        if not (finite and math.isfinite(loss)):
            return self._judge_bad(step)
        if self._leaps_up(loss, kind):
            return Verdict.SKIP
        self._bad = 0
        return Verdict.APPLY

    def _judge_bad(self, step: int) -> Verdict:
        self._bad += 1
        self.reason = f"loss or gradient is not finite, {self._bad} in a row"
        if self._bad >= self.config.stop_after:
            return Verdict.STOP
        if self._bad != self.config.rollback_after:
            return Verdict.SKIP
        self._rollbacks = [past for past in self._rollbacks if past > step - _APART] + [step]
        if len(self._rollbacks) <= self.config.rollbacks:
            return Verdict.ROLL_BACK
        self.reason += f", and {self.config.rollbacks} returns to a checkpoint within {_APART} steps did not help"
        return Verdict.STOP

    def _leaps_up(self, loss: float, kind: str) -> bool:
        """Whether the loss leaps; if not, it joins those that the next ones are compared with."""
        config = self.config
        if config.spike is None:
            return False
        past = self._applied.setdefault(kind, [])
        if len(past) >= config.spike_window / 2:
            middle = statistics.median(past)
            spread = _NORMAL * statistics.median(abs(value - middle) for value in past)
            deviations = (loss - middle) / max(spread, _LEAST * abs(middle), 1e-12)
            if deviations > config.spike:
                above = f"{deviations:.3g} deviations above {middle:.4g}, the median of {len(past)} steps"
                what = f"loss {loss:.4g} is {above}"
                self._leaps[kind] = self._leaps.get(kind, 0) + 1
                if self._leaps[kind] <= config.spike_limit:
                    self.reason = what
                    return True
                self.reason = f"{what}; accepted as a new level after {config.spike_limit} skipped steps"
                past.clear()
        self._leaps[kind] = 0
        past.append(loss)
        del past[: -config.spike_window]
        return False

    def state_dict(self) -> dict[str, Any]:
        """What it remembers, as numbers, lists and dicts."""
        return {
            "bad": self._bad,
            "rollbacks": list(self._rollbacks),
            "applied": {kind: list(losses) for kind, losses in self._applied.items()},
            "leaps": dict(self._leaps),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Remember what `state_dict` gave."""
        self._bad = state["bad"]
        self._rollbacks = list(state["rollbacks"])
        self._applied = {kind: list(losses) for kind, losses in state["applied"].items()}
        self._leaps = dict(state["leaps"])
