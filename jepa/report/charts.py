"""The drawn sections: curves of training, confusion matrices, masks and feature maps."""

from collections.abc import Mapping, Sequence

import numpy as np

from jepa.report.collect import Run, predictions_name
from jepa.report.headline import ENCODER_WORDS, PROBE_WORDS, main_score
from jepa.report.pictures import ClipPictures, Pictures
from jepa.report.template import escape, note, paragraph, section
from jepa.viz.confusion import confusion, confusion_counts, hardest, worst_mistakes
from jepa.viz.curves import Series, curve, number
from jepa.viz.masks import DIM_LEVEL, STRIPE_LEVEL
from jepa.viz.style import ACCENT

QUANTITIES: Mapping[str, tuple[str, str]] = {
    "loss": ("loss", "mean since the row before"),
    "feature_std": ("feature std", "of the target tokens; 0 is collapse"),
    "effective_rank": ("effective rank", "RankMe of the target tokens"),
    "lr": ("learning rate", ""),
    "momentum": ("momentum", "of the target encoder"),
    "weight_decay": ("weight decay", ""),
    "grad_norm": ("gradient norm", "before clipping"),
    "clips_per_second": ("clips per second", ""),
    "data_wait": ("data wait", "share of the time; waiting for the loader"),
}
"""Columns of metrics.csv that the page knows: heading and remark; others are drawn under their own name."""
FRAME_PX = 108
"""Most pixels that a frame takes in the width of the page."""
_HATCH = ",".join(f"rgb({level},{level},{level}) {stop}" for level, stop in (
    (STRIPE_LEVEL, "0"), (STRIPE_LEVEL, "1.5px"), (DIM_LEVEL, "1.5px"), (DIM_LEVEL, "4px")))  # fmt: skip
_COUNTERS = ("step", "position", "epoch")
_OBJECTIVES = {
    "ema": "latent prediction, EMA target encoder",
    "teacher": "latent prediction, frozen teacher",
    "pixels": "masked reconstruction of pixels",
}


def objective_of(run: Run) -> str:
    """What the run minimises, in words; empty if its configuration does not tell."""
    objective = run.config.get("objective")
    if not isinstance(objective, Mapping) or not (target := objective.get("target", "ema")):
        return ""
    dense = any(objective.get(name) for name in ("context_weight", "image_context_weight"))
    return _OBJECTIVES.get(str(target), str(target)) + (", at visible tokens too" if dense else "")


def stages_of(runs: Sequence[Run]) -> list[tuple[str, list[tuple[str, Run]]]]:
    """Stages in order, each with (label of the line, run); the last one is the runs themselves."""
    names = list(dict.fromkeys(stage.name for run in runs for stage in run.stages))
    found = []
    for name in names:
        members = [(run.name, stage) for run in runs for stage in run.stages if stage.name == name]
        found.append((f"Stage {name}", members))
    found.append(("Final stage" if names else "", [(run.name, run) for run in runs]))
    return found


def curves_section(runs: Sequence[Run]) -> str:
    """Small drawings of every logged quantity, stage by stage."""
    parts = []
    for number_of_stage, (title, members) in enumerate(stages_of(runs)):
        words = " · ".join(dict.fromkeys(filter(None, (objective_of(run) for _, run in members))))
        heading = ": ".join(filter(None, (title, words)))
        if heading:
            parts.append(f"<h3>{escape(heading[0].upper() + heading[1:])}</h3>")
        parts.append(_stage_curves(members, f"c{number_of_stage}"))
    return section("curves", "Training curves", "\n".join(parts))


def _stage_curves(members: Sequence[tuple[str, Run]], prefix: str) -> str:
    logged = [(label, run) for label, run in members if run.metrics]
    absent = [label for label, run in members if not run.metrics]
    remarks = [f"No curves of {label}: it has no readable metrics.csv." for label in absent]
    columns = list(dict.fromkeys(name for _, run in logged for name in run.metrics if name not in _COUNTERS))
    columns = [name for name in QUANTITIES if name in columns] + [name for name in columns if name not in QUANTITIES]
    drawings: list[str] = []
    constant: list[str] = []
    for column in columns:
        title, remark = QUANTITIES.get(column, (column, ""))
        lines = [
            Series(label, run.metrics["step"], run.metrics[column]) for label, run in logged if column in run.metrics
        ]
        fixed = _constant(lines)
        if fixed is not None:
            constant.append(f"{title} {number(fixed)}")
            continue
        drawing = curve(lines, name=f"{prefix}q{len(drawings)}", title=f"{title} against steps")
        if drawing is not None:
            caption = f"{escape(title)} <span>{escape(remark)}</span>"
            drawings.append(f"<figure><figcaption>{caption}</figcaption>{drawing}</figure>")
    if constant:
        remarks.append(f"Constant: {', '.join(constant)}.")
    body = f'<div class="curves">{"".join(drawings)}</div>' if drawings else ""
    return body + "".join(note(remark) for remark in remarks)


def _constant(lines: Sequence[Series]) -> float | None:
    """The value that all lines have everywhere, if there is one."""
    values = np.concatenate([line.values[np.isfinite(line.values)] for line in lines])
    return float(values[0]) if len(values) > 1 and (values == values[0]).all() else None


def confusion_section(runs: Sequence[Run]) -> str:
    """The confusion matrix of each run's main probe."""
    parts = []
    for index, run in enumerate(runs):
        if len(runs) > 1:
            parts.append(f"<h3>{escape(run.name)}</h3>")
        parts.append(_confusion(run, f"m{index}"))
    return section("confusion", "Confusion matrix", "\n".join(parts))


def _confusion(run: Run, name: str) -> str:
    score = main_score(run)
    if score is None:
        return note("None: no probe has been run.")
    found = run.predictions_of(score)
    if found is None:
        why = "of another measurement than the one shown" if predictions_name(score) in run.predictions else "missing"
        return note(f"None: predictions/{predictions_name(score)}.json is {why}.")
    counts = confusion_counts(found.truth, found.predicted, len(found.classes))
    chosen = hardest(counts)
    labels = [found.classes[index] for index in chosen]
    what = f"{PROBE_WORDS.get(score.probe, score.probe)} on {ENCODER_WORDS.get(score.encoder, score.encoder)}"
    text = f"Task {score.task}, {what}. Rows are the true classes, columns the answers; cells in per cent of the row."
    if len(chosen) < len(found.classes):
        text += f" Shown are the {len(chosen)} of {len(found.classes)} classes that are recognised worst."
    drawing = confusion(counts[np.ix_(chosen, chosen)], labels, name=name, title=text,
                        totals=counts.sum(1)[chosen])  # fmt: skip
    mistakes = "; ".join(
        f"{mistake.truth} taken for {mistake.predicted} {mistake.share:.0%}"
        for mistake in worst_mistakes(counts, found.classes)
    )
    said = note(f"Most frequent mistakes: {mistakes}.") if mistakes else note("No mistakes.")
    return f'{paragraph(text, "note")}<div class="scroll">{drawing}</div>{said}'


def masks_section(runs: Sequence[Run], pictures: Sequence[Pictures]) -> str:
    """What is seen and what is predicted, on frames."""
    key = (
        '<div class="key"><span><i style="border:1px solid var(--muted)"></i>'
        "seen by the context encoder: the plain frame</span>"
        f'<span><i style="background:{ACCENT.light}"></i>to be predicted</span>'
        f'<span><i style="background:repeating-linear-gradient(135deg,{_HATCH})"></i>neither</span></div>'
    )
    groups = [drawn.masks for drawn in pictures]
    remarks = [drawn.masks_note for drawn in pictures]
    return section("masks", "Masks", (key if any(groups) else "") + _clips(runs, groups, remarks))


def maps_section(runs: Sequence[Run], pictures: Sequence[Pictures]) -> str:
    """Features as colours, beside the frames they belong to."""
    captions = "".join(
        paragraph(text, "note") for text in dict.fromkeys(drawn.maps_caption for drawn in pictures) if text
    )
    groups = [drawn.maps for drawn in pictures]
    remarks = [drawn.maps_note for drawn in pictures]
    warning = note(
        "Colours compare within a row, and with rows of the same name under other clips; never between rows of "
        "different names: each encoder has a basis of its own."
    )
    clips = _clips(runs, groups, remarks)
    return section("features", "Feature maps over time", captions + clips + (warning if any(groups) else ""))


def _clips(runs: Sequence[Run], groups: Sequence[Sequence[ClipPictures]], remarks: Sequence[str]) -> str:
    parts = []
    for run, clips, remark in zip(runs, groups, remarks, strict=True):
        if len(runs) > 1:
            parts.append(f"<h3>{escape(run.name)}</h3>")
        parts += [_clip(clip) for clip in clips]
        if remark:
            parts.append(note(remark))
    return "\n".join(parts)


def _clip(clip: ClipPictures) -> str:
    rows = "".join(
        f'<div class="strip"><span>{escape(strip.label)}</span>'
        f'<img{" class=crisp" if strip.crisp else ""} style="max-width:{strip.count * FRAME_PX}px" '
        f'src="{strip.image}" alt="{escape(f"{strip.count} frames: {strip.label}")}"></div>'
        for strip in clip.strips
    )
    return f'<div class="clip"><h3>{escape(clip.title)}</h3>{rows}</div>'
