"""The written sections: opening, facts, results, configuration, environment, how to do it again."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from jepa.report.charts import objective_of, stages_of
from jepa.report.collect import Run, Score
from jepa.report.headline import (
    ENCODER_ORDER,
    OWN,
    PROBE_ORDER,
    TASK_ORDER,
    health,
    ordered,
    percent,
    reading,
)
from jepa.report.template import code_block, escape, folded, note, notes, paragraph, section
from jepa.viz.intervals import interval_bar
from jepa.viz.style import ACCENT, INK

PROBE_TITLES = {"attentive": "attentive probe", "linear": "linear probe", "knn": "nearest neighbours"}
ROW_NAMES = {
    "reconstruction": "reconstruction stage only",
    "scratch": "final stage from scratch",
    "random": "random weights",
    "pixels": "raw pixels",
    "jepa-nano": "jepa-nano, shipped",
}
_ROW_TITLES = {"time": "last start"}
_ANCHORS = (
    ("results", "Results"),
    ("curves", "Training curves"),
    ("masks", "Masks"),
    ("features", "Feature maps"),
    ("confusion", "Confusion matrix"),
    ("configuration", "Configuration"),
    ("environment", "Environment"),
    ("reproduce", "Reproduce"),
)


def opening(runs: Sequence[Run]) -> str:
    """Title, the results in words, the facts of each run, and what is missing."""
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs: {', '.join(run.name for run in runs)}"
    parts = [f'<header><p class="kicker">{escape(_kicker(runs[0]))}</p><h1>{escape(title)}</h1>']
    for run in runs:
        prefix = f"{run.name}: " if len(runs) > 1 else ""
        parts.append(paragraph(f"{prefix}{reading(run)}", "lead"))
        if text := health(run):
            parts.append(paragraph(text))
    links = "".join(f'<a href="#{anchor}">{escape(name)}</a>' for anchor, name in _ANCHORS)
    parts.append(f"<nav>{links}</nav></header>")
    lines = [f"{run.name}: {line}" if len(runs) > 1 else line for run in runs for line in run.notes]
    facts = _facts_table(runs)
    return "".join(parts) + facts + notes(lines)


def _kicker(run: Run) -> str:
    words = objective_of(run)
    return f"Video representation learning · {words}" if words else "Video representation learning"


def facts_of(run: Run) -> dict[str, str]:
    """What a reader asks first about a run."""
    return {
        "Encoder": _encoder_words(run),
        "Clips": _clip_words(run),
        "Trained": _training_words(run),
        "Data": str(run.config.get("data") or ""),
        "Started": _start_words(run),
        "Weights": next((score.checkpoint for score in run.scores if score.encoder == OWN), ""),
        "Folder": str(run.path),
    }


def _starts(run: Run) -> list[Mapping[str, Any]]:
    """The recorded starts of a run, first one first; the others are resumes."""
    starts = run.environment.get("starts")
    return [start for start in starts if isinstance(start, Mapping)] if isinstance(starts, list) else []


def _start_words(run: Run) -> str:
    """When the run was first started, and each resume. `time` itself is that of the last start."""
    first, *resumes = _starts(run) or [run.environment]
    words = [_time(first)]
    words += [f"resumed {_time(start)} at step {start.get('step', 'unknown')}" for start in resumes]
    return "; ".join(filter(None, words))


def _time(start: Mapping[str, Any]) -> str:
    return str(start.get("time") or "").replace("T", " ").replace("+0000", " UTC")


def _encoder_words(run: Run) -> str:
    encoder = run.model.get("encoder")
    model = run.config.get("model")
    size = f"{model['size']}, " if isinstance(model, Mapping) and "size" in model else ""
    if not isinstance(encoder, Mapping):
        return size.rstrip(", ")
    count = _parameters(run.path / "model.safetensors", run.model)
    words = f"{size}{encoder.get('depth')} blocks of width {encoder.get('width')}, {encoder.get('heads')} heads"
    return f"{words}, {count / 1e6:.2f} M parameters" if count else words


def _parameters(weights: Path, model: Mapping[str, Any]) -> int:
    """Parameters of the encoder, counted in the header of the weights; 0 if there are none."""
    prefix = "encoder." if model.get("evaluate") == "context" else "target_encoder."
    total = 0
    try:
        with safe_open(weights, framework="np") as file:
            for name in file.keys():  # noqa: SIM118  # no mapping
                if name.startswith(prefix):
                    size = 1
                    for side in file.get_slice(name).get_shape():
                        size *= side
                    total += size
    except (OSError, SafetensorError):
        return 0
    return total


def _clip_words(run: Run) -> str:
    clip, encoder = run.config.get("clip"), run.model.get("encoder")
    source = clip if isinstance(clip, Mapping) else encoder
    if not isinstance(source, Mapping) or "frames" not in source or "size" not in source:
        return ""
    words = f"{source['frames']} frames of {source['size']} x {source['size']} pixels"
    if isinstance(encoder, Mapping) and {"tubelet", "patch"} <= encoder.keys():
        words += f", tubelets of {encoder['tubelet']} x {encoder['patch']} x {encoder['patch']}"
    return words


def _training_words(run: Run) -> str:
    words = []
    for stage in (*run.stages, run):
        if not stage.metrics:
            continue
        name = "final stage" if stage is run else stage.name
        text = f"{f'{name} ' if run.stages else ''}{int(stage.metrics['step'][-1])} steps"
        if "position" in stage.metrics:
            text += f" ({int(stage.metrics['position'][-1])} clips)"
        words.append(text)
    return ", ".join(words)


def _facts_table(runs: Sequence[Run]) -> str:
    columns = [facts_of(run) for run in runs]
    names = [name for name in columns[0] if any(column[name] for column in columns)]
    head = ""
    if len(runs) > 1:
        cells = "".join(f"<th>{escape(run.name)}</th>" for run in runs)
        head = f"<thead><tr><th></th>{cells}</tr></thead>"
    rows = ""
    for name in names:
        cells = "".join(f"<td>{escape(column[name] or '–')}</td>" for column in columns)
        rows += f"<tr><th>{escape(name)}</th>{cells}</tr>"
    return f'<div class="scroll"><table class="facts">{head}<tbody>{rows}</tbody></table></div>'


def results_section(runs: Sequence[Run]) -> str:
    """Accuracies with intervals: a table for each data set and task, encoders down, probes across."""
    scores = [(run, score) for run in runs for score in run.scores]
    if not scores:
        text = "No results yet. Probes write them: jepa probe --encoder RUN --data DIR --out RUN"
        return section("results", "Results", note(text))
    intro = note(
        "Accuracy on test clips in per cent with its 95 % interval. Bars run from 0 to 100; the tick is chance. "
        "The encoder is frozen; only the probe is trained."
    )
    sets = list(dict.fromkeys(score.data for _, score in scores))
    tables = [
        _task_table([pair for pair in scores if (pair[1].data, pair[1].task) == (data, task)],
                    several=len(runs) > 1, title=f"{task}, data {data or 'not recorded'}" if len(sets) > 1 else task)
        for data in sets
        for task in ordered([score.task for _, score in scores if score.data == data], TASK_ORDER)
    ]  # fmt: skip
    return section("results", "Results", intro + "".join(tables))


def _task_table(scores: Sequence[tuple[Run, Score]], *, several: bool, title: str) -> str:
    probes = ordered([score.probe for _, score in scores], PROBE_ORDER)
    head = "".join(f"<th>{escape(PROBE_TITLES.get(probe, probe))}</th>" for probe in probes)
    rows = []
    for encoder in ordered([score.encoder for _, score in scores], ENCODER_ORDER):
        for run in dict.fromkeys(run.path for run, _ in scores):
            cells = {score.probe: score for owner, score in scores if owner.path == run and score.encoder == encoder}
            if cells:
                rows.append(_row(encoder, run.resolve().name if several else "", probes, cells))
    return (
        f'<h3>{escape(title)}</h3><table class="scores"><caption>{escape(_about([score for _, score in scores]))}'
        f"</caption><thead><tr><th>encoder</th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


def _about(scores: Sequence[Score]) -> str:
    """What the results of a table were measured on; where they differ, every value is named."""
    classes = _distinct(str(score.classes) for score in scores if score.classes)
    counts = _distinct(str(score.count) for score in scores)
    chances = _distinct(percent(score.chance) for score in scores if score.chance is not None)
    parts = [f"{classes} classes" if classes else "", f"{counts} test clips", f"chance {chances} %" if chances else ""]
    return ", ".join(filter(None, (*parts, f"data {scores[0].data}" if scores[0].data else "")))


def _distinct(values: Iterable[str]) -> str:
    return " or ".join(dict.fromkeys(values))


def _row(encoder: str, run: str, probes: Sequence[str], cells: Mapping[str, Score]) -> str:
    own = encoder == OWN
    role = ACCENT if own else INK
    parts = []
    for probe in probes:
        title = escape(PROBE_TITLES.get(probe, probe))
        score = cells.get(probe)
        if score is None:
            parts.append(f'<td data-probe="{title}">–</td>')
            continue
        bar = interval_bar(score.value, score.low, score.high, score.chance, role=role)
        settings = ", ".join(f"{name} {value}" for name, value in score.settings.items())
        parts.append(
            f'<td data-probe="{title}" title="{escape(settings)}"><div class="score"><b>{percent(score.value)}</b>'
            f"<small>{percent(score.low)} – {percent(score.high)}</small>{bar}</div></td>"
        )
    name = ROW_NAMES.get(encoder, encoder)
    small = f"<small>{escape(run)}</small>" if run else ""
    return f'<tr class="{"own" if own else "other"}"><th scope="row">{escape(name)}{small}</th>{"".join(parts)}</tr>'


def configuration_section(runs: Sequence[Run]) -> str:
    """The resolved YAML of every stage, folded."""
    parts = []
    for title, members in stages_of(runs):
        for label, run in members:
            words = ", ".join(filter(None, (label if len(runs) > 1 else "", title.lower())))
            name = f"config.yaml{f' ({words})' if words else ''}"
            parts.append(folded(name, code_block(run.config_text)) if run.config_text else note(f"{name} is missing."))
    return section("configuration", "Configuration", "\n".join(parts))


def environment_section(runs: Sequence[Run]) -> str:
    """Machine and versions."""
    parts = []
    for run in runs:
        if len(runs) > 1:
            parts.append(f"<h3>{escape(run.name)}</h3>")
        if not run.environment:
            parts.append(note("Not recorded: environment.json is missing."))
            continue
        rows = "".join(
            f"<tr><th>{escape(_ROW_TITLES.get(name, name.replace('_', ' ')))}</th><td>{escape(_plain(value))}</td></tr>"
            for name, value in run.environment.items()
            if name not in ("command", "starts")
        )
        parts.append(f'<div class="scroll"><table class="facts"><tbody>{rows}</tbody></table></div>')
    return section("environment", "Environment", "\n".join(parts))


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(inner)}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_plain(inner) for inner in value) or "none"
    return "none" if value is None else str(value)


def reproduce_section(runs: Sequence[Run]) -> str:
    """The command that was run, and the one that repeats it from the resolved configuration."""
    parts = []
    for run in runs:
        if len(runs) > 1:
            parts.append(f"<h3>{escape(run.name)}</h3>")
        commands = _commands(run)
        parts.append(code_block("\n".join(commands)) if commands else note("The command line was not recorded."))
        if run.config_text:
            folder = shlex.quote(str(run.path))
            again = f"jepa pretrain --config {folder}/config.yaml --out {folder}-again"
            parts.append(
                note("From the resolved configuration of the final stage, into a new folder:") + code_block(again)
            )
    commit = {str(run.environment["git_commit"]) for run in runs if run.environment.get("git_commit")}
    if commit:
        parts.append(note(f"Code: commit {', '.join(sorted(commit))}."))
    return section("reproduce", "How to reproduce", "\n".join(parts))


def _commands(run: Run) -> list[str]:
    """The command lines that started the run and continued it."""
    commands = [start.get("command") for start in _starts(run)] or [run.environment.get("command")]
    return [str(command) for command in commands if command]
