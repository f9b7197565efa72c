"""What a run says in a few sentences, with no more certainty than its intervals allow.

Two accuracies are called different only if their 95 % intervals do not overlap; that is stricter than a test at 5 %,
and errs on the side of saying nothing.
"""

from collections.abc import Sequence

import numpy as np

from jepa.report.collect import Run, Score

OWN = "pretrained"
TASK_ORDER = ("motion",)
PROBE_ORDER = ("attentive", "linear", "knn")
ENCODER_ORDER = (OWN, "jepa-nano", "scratch", "reconstruction", "random", "pixels")
ENCODER_WORDS = {
    OWN: "the pretrained encoder",
    "jepa-nano": "the shipped jepa-nano",
    "reconstruction": "the encoder after reconstruction",
    "scratch": "the encoder trained from scratch",
    "random": "random weights",
    "pixels": "raw pixels",
}
PROBE_WORDS = {"attentive": "an attentive probe", "linear": "a linear probe", "knn": "nearest neighbours"}
_COLLAPSED_RANK = 2.0
_WATCHED = (("loss", "the loss", 3), ("effective_rank", "the effective rank of the target tokens", 1))


def ordered(names: Sequence[str], first: Sequence[str]) -> list[str]:
    """Each name once: those in `first` in that order, then the others as they come."""
    unique = list(dict.fromkeys(names))
    return [name for name in first if name in unique] + [name for name in unique if name not in first]


def main_score(run: Run) -> Score | None:
    """The result that stands for the run: its own encoder, on motion if there is such a task, by the first probe."""
    own = [score for score in run.scores if score.encoder == OWN] or list(run.scores)
    for task in ordered([score.task for score in own], TASK_ORDER):
        for probe in ordered([score.probe for score in own], PROBE_ORDER):
            for score in own:
                if (score.task, score.probe) == (task, probe):
                    return score
    return None


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def comparison(own: Score, other: Score) -> str:
    """Whether one is better, as far as the intervals tell."""
    if own.low > other.high:
        return "clearly above"
    if own.high < other.low:
        return "clearly below"
    return "not clearly different from"


def reading(run: Run) -> str:
    """The results in words."""
    own = main_score(run)
    if own is None:
        return f"No probe has been run on it yet: jepa probe --encoder {run.path} --data DATA --out {run.path}"
    chance = f"; chance is {percent(own.chance)} %" if own.chance is not None else ""
    text = (
        f"On {own.task}, {PROBE_WORDS.get(own.probe, own.probe)} on {ENCODER_WORDS.get(own.encoder, own.encoder)} "
        f"reaches {percent(own.value)} % accuracy (95 % interval {percent(own.low)} to {percent(own.high)}, "
        f"{own.count} test clips{chance})."
    )
    groups: dict[str, list[str]] = {}
    for name, other in _others(run, own).items():
        how = "" if other.probe == own.probe else f" by {PROBE_WORDS.get(other.probe, other.probe)}"
        words = f"{ENCODER_WORDS.get(name, name)} ({percent(other.value)} %{how})"
        groups.setdefault(comparison(own, other), []).append(words)
    parts = [f"{relation} {join(names)}" for relation, names in groups.items()]
    return f"{text} That is {'; '.join(parts)}." if parts else text


def _others(run: Run, own: Score) -> dict[str, Score]:
    """What the main score is held against: each other encoder on the same task, by the same probe if it has been
    probed so (raw pixels have no attentive probe), else by its best one."""
    found = {}
    scores = [score for score in run.scores if score.task == own.task and score.encoder != own.encoder]
    for name in ordered([score.encoder for score in scores], ENCODER_ORDER):
        mine = [score for score in scores if score.encoder == name]
        same = [score for score in mine if score.probe == own.probe]
        found[name] = max(same or mine, key=lambda score: score.value)
    return found


def join(parts: Sequence[str]) -> str:
    """a, b and c."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def health(run: Run) -> str:
    """What loss and effective rank did over training; empty without metrics."""
    parts = []
    for column, words, digits in _WATCHED:
        values = run.metrics.get(column, np.array([]))
        values = values[np.isfinite(values)]
        if len(values) > 1:
            parts.append(f"{words} went from {values[0]:.{digits}f} to {values[-1]:.{digits}f}")
        if column == "effective_rank" and len(values) and values[-1] < _COLLAPSED_RANK:
            parts.append("the features have collapsed onto one direction")
    if not parts:
        return ""
    steps = run.metrics["step"]
    return f"Over {int(steps[-1])} steps {join(parts)}."
