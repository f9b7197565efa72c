"""Looks for every damage in folders of shards: tars that were cut, overwritten or changed, indices and manifests that
do not fit them, keys that occur twice, names that must not be unpacked, videos that are too short or do not decode.
Tars without an index are held to their own rules; what cannot be checked there is said.

One line for each finding: shard, key or byte, what it is, what to do. Exit code 3 if anything was found.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from jepa.cores import cores
from jepa.data.lint import Summary, lint
from jepa.data.lint_content import Checks
from jepa.data.lint_findings import Finding
from jepa.data.mixture import is_mixture
from jepa.data.windows import WindowConfig
from jepa.errors import ConfigError, DataError
from jepa.logs import get_logger

SUMMARY = "Find damage in shards: cut, overwritten, changed, duplicate, missing, undecodable"
EXAMPLE = "jepa lint shards/mine --decode"
POSITIONAL = ("folder",)

log = get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Config:
    folder: Path
    """Folder of shards, with sub-folders; or one tar."""
    decode: bool = False
    """Decode every video; takes as long as reading all frames."""
    frames: int | None = None
    """Report videos too short for clips of so many frames. Lengths come from the index, or from --decode."""
    stride: int = 1
    """Frames of the video from one frame of such a clip to the next."""
    fps: float | None = None
    """Frames per second of such a clip, in place of --stride."""
    classes: Path | None = None
    """File with the names of the classes, one in a line; a label that is none of them is reported."""
    label: str = "label"
    """Name of the label that --classes lists."""
    workers: int | None = None
    """Processes; the result does not depend on it. None: one per core; 0: none beside this one."""
    deadline: float = 600.0
    """Seconds in which checking a video must come a step further; else its process is replaced, the video reported."""
    json: bool = False
    """Print the result as JSON."""

    def __post_init__(self) -> None:
        for name, least in (("frames", 1), ("stride", 1), ("workers", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name} is {value}, expected {least} or more")
        if self.deadline <= 0:
            raise ConfigError(f"deadline is {self.deadline}, expected a positive number of seconds")
        if self.fps is not None and self.fps <= 0:
            raise ConfigError(f"fps is {self.fps}, expected a positive number")
        if self.frames is None and (self.stride != 1 or self.fps is not None):
            raise ConfigError("--stride and --fps are those of a clip: give its --frames too")


def run(config: Config) -> int:
    """Check, and print what was found."""
    if is_mixture(config.folder):
        raise ConfigError(f"{config.folder} describes a mixture: lint its data sets, one by one")
    findings: list[Finding] = []

    def found(finding: Finding) -> None:
        if config.json:
            findings.append(finding)
        else:
            print(finding.line(), flush=True)

    window = None if config.frames is None else WindowConfig(config.frames, config.stride, config.fps)
    checks = Checks(config.decode, window, read_classes(config.classes), config.label)
    workers = cores() if config.workers is None else config.workers
    summary = lint(config.folder.expanduser(), checks, found, workers, config.deadline)
    if config.json:
        print(json.dumps({**asdict(summary), "findings": [finding.record() for finding in findings]}, indent=2))
    elif not summary.findings:
        print(_sentence(summary))
    else:
        log.warning("%s", _sentence(summary))
    return DataError.exit_code if summary.findings else 0


def read_classes(path: Path | None) -> frozenset[str] | None:
    """The names in a list of classes.

    Raises:
        ConfigError: it cannot be read, or is empty.
    """
    if path is None:
        return None
    try:
        names = frozenset(line.strip() for line in path.expanduser().read_text("utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise ConfigError(f"--classes {path}: {reason}") from None
    if not names:
        raise ConfigError(f"--classes {path}: the file names no class")
    return names


def _sentence(summary: Summary) -> str:
    shards = "1 shard" if summary.shards == 1 else f"{summary.shards} shards"
    read = f"{shards} with {summary.samples} samples, {summary.bytes / 1e6:.1f} MB"
    unchecked = f"; not checked: {'; '.join(summary.unchecked)}" if summary.unchecked else ""
    if summary.findings:
        findings = "1 finding" if summary.findings == 1 else f"{summary.findings} findings"
        files = "1 file" if summary.damaged == 1 else f"{summary.damaged} files"
        return f"{findings} in {files} ({read}){unchecked}"
    return f"nothing found in {read}{unchecked}"
