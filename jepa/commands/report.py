"""Makes one HTML page of run folders: results with intervals, training curves, masks and features drawn on frames,
confusion matrix, configuration and environment. The page is one file without scripts that opens offline.

Several runs are shown side by side. What a run does not have yet is said on the page in one line.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from jepa.config import to_dict
from jepa.report.page import write_report

SUMMARY = "Make one HTML page of one or more run folders"
EXAMPLE = "jepa report runs/first"
POSITIONAL: tuple[str, ...] = ("runs",)


@dataclass(frozen=True)
class Config:
    runs: tuple[Path, ...] = ()
    """Run folders; the first is the main one."""
    out: Path | None = None
    """The HTML file; report.html in the first run folder when none."""
    data: Path | None = None
    """Videos to draw masks and features on; those that the run was trained on when none."""
    json: bool = False
    """Print the result as JSON."""


def run(config: Config) -> int:
    """Write the page, and print its path and what it says."""
    report = write_report(config.runs, out=config.out, data=config.data)
    if config.json:
        print(json.dumps(to_dict(report), indent=2))
    else:
        print("\n".join((*report.reading, report.page)))
    return 0
