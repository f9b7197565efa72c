"""Run folders in, one HTML file out: self-contained, readable offline, on a phone, in light and dark."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jepa.checkpoints.io import atomic_write
from jepa.errors import ConfigError
from jepa.logs import get_logger
from jepa.report.charts import confusion_section, curves_section, maps_section, masks_section
from jepa.report.collect import Run, read_run
from jepa.report.headline import reading
from jepa.report.pictures import draw_pictures
from jepa.report.sections import configuration_section, environment_section, opening, reproduce_section, results_section
from jepa.report.template import page

log = get_logger(__name__)

PAGE_NAME = "report.html"


@dataclass(frozen=True)
class Report:
    """A page that was written."""

    page: str
    runs: tuple[str, ...]
    reading: tuple[str, ...]
    """One or two sentences on each run."""
    notes: tuple[str, ...]
    """What the page could not show."""


def write_report(paths: Sequence[str | Path], *, out: Path | None = None, data: Path | None = None) -> Report:
    """Read runs and write their page.

    Args:
        paths: run folders, the first one is the main one.
        out: the file; `report.html` in the first run folder when none.
        data: videos to draw masks and features on; those of each run when none.

    Raises:
        DataError: a path is no run folder.
        ConfigError: no run is given, or the page cannot be written.
    """
    if not paths:
        raise ConfigError("name at least one run folder: jepa report RUN")
    runs = distinct([read_run(path) for path in paths])
    target = out or runs[0].path / PAGE_NAME
    if target.is_dir():
        raise ConfigError(f"{target} is a folder; name a file, e.g. --out {target / PAGE_NAME}")
    text, lines = render(runs, data)
    with atomic_write(target) as file:
        file.write(text.encode())
    for line in lines:
        log.info("%s", line)
    return Report(str(target), tuple(str(run.path) for run in runs), tuple(reading(run) for run in runs), tuple(lines))


def distinct(runs: Sequence[Run]) -> list[Run]:
    """Runs with names that tell them apart: folders of one name get the name of the folder above in front."""
    names = [run.name for run in runs]
    renamed = []
    for run in runs:
        clash = names.count(run.name) > 1
        renamed.append(replace(run, name=f"{run.path.resolve().parent.name}/{run.name}") if clash else run)
    return renamed


def render(runs: Sequence[Run], data: Path | None = None) -> tuple[str, list[str]]:
    """The page as text, and the remarks on what it could not show."""
    pictures = [draw_pictures(run, data) for run in runs]
    body = "\n".join(
        (
            opening(runs),
            results_section(runs),
            curves_section(runs),
            masks_section(runs, pictures),
            maps_section(runs, pictures),
            confusion_section(runs),
            configuration_section(runs),
            environment_section(runs),
            reproduce_section(runs),
        )
    )
    title = f"{', '.join(run.name for run in runs)} · jepa report"
    remarks = [line for run in runs for line in run.notes]
    remarks += [line for drawn in pictures for line in (drawn.masks_note, drawn.maps_note) if line]
    return page(title, body), remarks
