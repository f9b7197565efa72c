"""Reading a checkpoint of a run from wherever its path points: a file, a folder, or the link to the newest."""

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from jepa.checkpoints.digested import FileDigest
from jepa.checkpoints.io import DIGEST, load_state
from jepa.checkpoints.manifest import FORMAT_VERSION, other_version, read_manifest
from jepa.errors import DataError


def checkpoint_exists(path: Path) -> bool:
    """Whether a path, or what it links to, is a file or folder with the data of a checkpoint."""
    return path.is_file() or path.is_dir()


def read_checkpoint(
    path: Path, *, map_location: Any = "cpu", lazy: bool = False, groups: Collection[str] | None = None
) -> dict[str, Any]:
    """The state in a checkpoint; nothing in it is ever run.

    Args:
        path: the data of a checkpoint, or a link to it.
        map_location: device of the tensors, as in `torch.load`.
        lazy: map a file into memory instead of reading its tensors. A folder is read all the same.
        groups: of tensors that are wanted, such as `state_dict`; others may be missing from what is returned.

    Raises:
        DataError: there is nothing, or it is damaged, of another format version or no checkpoint of this package.
    """
    path = _target(path)
    if path.is_dir():
        from jepa.checkpoints.sharded import assemble

        state = assemble(path, map_location, groups)
    else:
        state = load_state(path, map_location=map_location, lazy=lazy)
    _facts_of(state, path)
    return state


def read_facts(path: Path) -> dict[str, Any]:
    """The facts of a checkpoint, from its manifest or, of a copy without one, from itself. Reads no tensors.

    Raises:
        DataError: as `read_checkpoint`.
    """
    path = _target(path)
    try:
        return read_manifest(path).facts
    except (DataError, OSError):
        if path.is_dir():
            from jepa.checkpoints.sharded import read_rest

            return _facts_of(read_rest(path), path)
        return _facts_of(load_state(path, lazy=True), path)


def checkpoint_digest(path: Path) -> str:
    """12 hexadecimal digits that change with any byte of the data of a checkpoint, whatever its manifest says.

    Raises:
        DataError: there is nothing, or it cannot be read.
    """
    path = _target(path)
    try:
        inside = sorted(path.iterdir()) if path.is_dir() else [path]
        files = {f"{path.name}/{file.name}": FileDigest.of(file) for file in inside}
    except OSError as error:
        raise DataError(f"no checkpoint at {path}: {error.strerror}") from error
    # A file has one digest under any name.
    parts = [f"{name.rpartition('/')[2] if len(files) > 1 else ''} {files[name].blake2b}" for name in sorted(files)]
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=DIGEST).hexdigest()


def _target(path: Path) -> Path:
    """What a link points to, as an error if that is nothing."""
    if path.is_symlink() and not path.exists():
        raise DataError(f"{path} points to {path.readlink()}, which is gone: restore it or give another checkpoint")
    return path.resolve() if path.is_symlink() else path


def _facts_of(state: dict[str, Any], path: Path) -> dict[str, Any]:
    """The entry `jepa`. Raises DataError unless it is one of this format."""
    facts = state.get("jepa")
    version = facts.get("format_version") if isinstance(facts, dict) else None
    if version is not None and version != FORMAT_VERSION:
        raise other_version(path, version)
    if not isinstance(facts, dict) or version is None or not isinstance(facts.get("step"), int):
        raise DataError(f"{path} is no checkpoint of this package: restore it or start another --out")
    return facts
