"""The manifest of a checkpoint: a small JSON file beside the data that tells what it must be.

    step-000000500.ckpt    the data: one file, or a folder of torch's distributed checkpoints
    step-000000500.json    step, facts of the run, and every file of the data with size and digest

The manifest gets its name before the data gets its own, so data under its name has a manifest, and what a kill leaves
is a manifest without data, which is nothing. It carries a digest of itself, so that no flipped bit in it passes either.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jepa.checkpoints.digested import DIGEST, DigestedFile, FileDigest
from jepa.errors import DataError

FORMAT_VERSION = 2
"""Of checkpoints. Version 1 was one file last.ckpt, without a manifest."""
LAST = "last.ckpt"
"""Name of the link to the newest checkpoint."""

_DATA = re.compile(r"step-(\d{9,18})\.ckpt")
_THREADS = 4
"""Files that are hashed at once."""


class OtherVersion(DataError):
    """A checkpoint in another format, which is not this package's to judge or to remove."""


def data_name(step: int) -> str:
    """Name of the file or folder with the tensors of a checkpoint."""
    return f"step-{step:09d}.ckpt"


def manifest_name(step: int) -> str:
    return f"step-{step:09d}.json"


def step_of(name: str) -> int | None:
    """The step in the name of the data of a checkpoint; none if it is another name."""
    match = _DATA.fullmatch(name)
    return int(match[1]) if match and data_name(int(match[1])) == name else None


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint must be."""

    step: int
    facts: dict[str, Any]
    files: dict[str, FileDigest]
    """By path below the folder of checkpoints: the data file, or the files inside the data folder."""

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files.values())

    def write(self, path: Path) -> None:
        """Write it to `path`, on the device when this returns. Raises OSError."""
        with DigestedFile(path) as file:
            file.write(self._text().encode())

    def problem(self, folder: Path, *, whole: bool = True) -> str | None:
        """What is wrong with the data in a folder of checkpoints; none if nothing is.

        Args:
            folder: of checkpoints.
            whole: read all files and compare digests; else compare sizes only.

        Raises:
            OSError: it cannot be read, which tells nothing.
        """
        for name, file in self.files.items():
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            if (size := path.stat().st_size) != file.bytes:
                return f"{name} has {size} bytes, not {file.bytes}"
        if not whole:
            return None
        with ThreadPoolExecutor(_THREADS) as threads:
            found = threads.map(lambda name: FileDigest.of(folder / name), self.files)
            damaged = [name for name, digest in zip(self.files, found, strict=True) if digest != self.files[name]]
        return f"{damaged[0]} has another digest" if damaged else None

    def _text(self) -> str:
        files = [{"name": name, **asdict(file)} for name, file in sorted(self.files.items())]
        content = {"format_version": FORMAT_VERSION, "step": self.step, "facts": self.facts, "files": files}
        return json.dumps({**content, "blake2b": _digest(content)}, indent=1) + "\n"


def read_manifest(data: Path) -> Manifest:
    """The manifest beside the data of a checkpoint; does not look at the data.

    Raises:
        DataError: there is none, it is damaged, of another checkpoint or of another format version.
        OSError: it cannot be read, which tells nothing.
    """
    step = step_of(data.name)
    if step is None:
        raise DataError(f"{data} has no manifest: it is not called like a checkpoint")
    path = data.with_name(manifest_name(step))
    try:
        content = json.loads(path.read_text("utf-8"))
        written = content.pop("blake2b")
        if not isinstance(content, dict) or written != _digest(content):
            raise DataError(f"the manifest {path} is damaged: it has another digest")
        if content["format_version"] != FORMAT_VERSION:
            raise other_version(path, content["format_version"])
        files = {str(file["name"]): FileDigest(int(file["bytes"]), str(file["blake2b"])) for file in content["files"]}
        manifest = Manifest(int(content["step"]), dict(content["facts"]), files)
    except FileNotFoundError as error:
        raise DataError(f"the manifest {path} is missing") from error
    except DataError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"the manifest {path} is damaged: it is no manifest of a checkpoint") from error
    inside = re.compile(rf"{re.escape(data.name)}(/[^/]+)?")
    if manifest.step != step or not files or not all(inside.fullmatch(name) for name in files):
        raise DataError(f"the manifest {path} is of another checkpoint, of step {manifest.step}")
    return manifest


def other_version(path: Path, version: object) -> OtherVersion:
    """What to say of a checkpoint in another format."""
    return OtherVersion(
        f"{path} has format version {version}, this package reads {FORMAT_VERSION}: continue "
        "with the version of jepa-video that wrote it, or start another --out"
    )


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=DIGEST).hexdigest()
