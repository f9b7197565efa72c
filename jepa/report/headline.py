"""What a run says in a few sentences, with no more certainty than its intervals allow.

Two accuracies are called different only if their 95 % intervals do not overlap; that is stricter than a test at 5 %,
and errs on the side of saying nothing. The sentences are about one probe on one task; where another probe or task
tells a worse story, that is said next to it.
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
    if len({score.data for score in run.scores}) > 1:
        text = f"{text[:-1]}, data {own.data or 'not recorded'}."
    groups: dict[str, list[str]] = {}
    for name, other in _others(run, own).items():
        how = "" if other.probe == own.probe else f" by {PROBE_WORDS.get(other.probe, other.probe)}"
        words = f"{ENCODER_WORDS.get(name, name)} ({percent(other.value)} %{how})"
        groups.setdefault(comparison(own, other), []).append(words)
    parts = [f"{relation} {join(names)}" for relation, names in groups.items()]
    said = f"{text} That is {'; '.join(parts)}." if parts else text
    return " ".join(filter(None, (said, _worse_probes(run, own), _weak_tasks(run, own))))


def _worse_probes(run: Run, own: Score) -> str:
    """The other probes of the same task by which another encoder is clearly better; empty if there is none."""
    parts = []
    for mine in _by_probe(run.scores, own.task, own.data):
        better = [
            f"{ENCODER_WORDS.get(name, name)} ({percent(other.value)} %)"
            for name, other in _others(run, mine).items()
            if other.probe == mine.probe != own.probe and comparison(mine, other) == "clearly below"
        ]
        if better:
            words = PROBE_WORDS.get(mine.probe, mine.probe)
            parts.append(f"by {words} ({percent(mine.value)} %) it is clearly below {join(better)}")
    return f"But {'; '.join(parts)}." if parts else ""


def _weak_tasks(run: Run, own: Score) -> str:
    """The other tasks (and data) on which the first probe does not part the encoder from random weights or chance."""
    parts = []
    for task, data in dict.fromkeys((score.task, score.data) for score in run.scores):
        mine = next(iter(_by_probe(run.scores, task, data)), None)
        if mine is None or (task, data) == (own.task, own.data):
            continue
        random = _others(run, mine).get("random")
        short = [f"random weights ({percent(random.value)} %)"] if random and mine.low <= random.high else []
        if mine.chance is not None and mine.low <= mine.chance:
            short.append(f"chance ({percent(mine.chance)} %)")
        if short:
            where = task if data == own.data else f"{task} (data {data or 'not recorded'})"
            words = f"{PROBE_WORDS.get(mine.probe, mine.probe)} ({percent(mine.value)} %)"
            parts.append(f"on {where}, {words} is not clearly above {' or '.join(short)}")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _by_probe(scores: Sequence[Score], task: str, data: str) -> list[Score]:
    """The pretrained encoder's results on a task, first probe first."""
    mine = {score.probe: score for score in scores if (score.encoder, score.task, score.data) == (OWN, task, data)}
    return [mine[probe] for probe in ordered(list(mine), PROBE_ORDER)]


def _others(run: Run, own: Score) -> dict[str, Score]:
    """What a score is held against: each other encoder on the same task and data, by the same probe if it has been
    probed so (raw pixels have no attentive probe), else by its best one."""
    found = {}
    same_task = [score for score in run.scores if (score.task, score.data) == (own.task, own.data)]
    scores = [score for score in same_task if score.encoder != own.encoder]
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
