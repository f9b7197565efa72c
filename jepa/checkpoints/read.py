"""Reading a checkpoint of a run from wherever its path points: a file, a folder, or the link to the newest.

torch reads a file whose bits have flipped as if nothing were wrong. So where a manifest lies beside the data, all bytes
are compared with it first, unless who asks has done so. A copy of the data alone, under another name or without its
manifest, is taken as it is.
"""

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from jepa.checkpoints.digested import FileDigest
from jepa.checkpoints.io import DIGEST, load_state
from jepa.checkpoints.manifest import FORMAT_VERSION, Manifest, manifest_name, other_version, read_manifest, step_of
from jepa.errors import DataError


def checkpoint_exists(path: Path) -> bool:
    """Whether a path, or what it links to, is a file or folder with the data of a checkpoint."""
    return path.is_file() or path.is_dir()


def read_checkpoint(
    path: Path,
    *,
    map_location: Any = "cpu",
    lazy: bool = False,
    groups: Collection[str] | None = None,
    checked: bool = False,
) -> dict[str, Any]:
    """The state in a checkpoint; nothing in it is ever run.

    Args:
        path: the data of a checkpoint, or a link to it.
        map_location: device of the tensors, as in `torch.load`.
        lazy: map a file into memory instead of reading its tensors. A folder is read all the same.
        groups: of tensors that are wanted, such as `state_dict`; others may be missing from what is returned.
        checked: the bytes are known to be those that were written, and are not read twice.

    Raises:
        DataError: there is nothing, or it is damaged, of another format version or no checkpoint of this package.
    """
    path = _target(path)
    if not checked:
        require_whole(path)
    if path.is_dir():
        from jepa.checkpoints.sharded import assemble

        state = assemble(path, map_location, groups)
    else:
        state = load_state(path, map_location=map_location, lazy=lazy)
    _facts_of(state, path)
    return state


def require_whole(path: Path) -> None:
    """Read all of a checkpoint that has a manifest, and compare. Raises DataError if its bytes are others."""
    path = _target(path)
    manifest = _manifest_beside(path)
    try:
        problem = None if manifest is None else manifest.problem(path.parent)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from error
    if problem is not None:
        raise _damaged(path, problem)


def _manifest_beside(path: Path) -> Manifest | None:
    """None if there is none. Raises DataError if it is damaged."""
    step = step_of(path.name)
    if step is None or not path.with_name(manifest_name(step)).exists():
        return None
    try:
        return read_manifest(path)
    except OSError as error:
        raise DataError(f"the manifest of {path} cannot be read ({error.strerror})") from error


def _damaged(path: Path, problem: str) -> DataError:
    return DataError(f"{path} is damaged ({problem}): restore it, or give another checkpoint")


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


def checkpoint_digest(path: Path, *, whole: bool = False) -> str:
    """12 hexadecimal digits that change with any byte of the data of a checkpoint, whatever its manifest says.

    Args:
        path: the data of a checkpoint, or a link to it.
        whole: compare with the manifest, too, if there is one, in the same pass over the bytes.

    Raises:
        DataError: there is nothing, it cannot be read or, with `whole`, its bytes are not those that were written.
    """
    path = _target(path)
    try:
        inside = sorted(path.iterdir()) if path.is_dir() else [path]
        files = {f"{path.name}/{file.name}": FileDigest.of(file) for file in inside}
    except OSError as error:
        raise DataError(f"no checkpoint at {path}: {error.strerror}") from error
    if whole and (manifest := _manifest_beside(path)) is not None:
        names = files if path.is_dir() else {path.name: files[f"{path.name}/{path.name}"]}
        for name, digest in manifest.files.items():
            if names.get(name) != digest:
                raise _damaged(path, f"{name} is missing" if name not in names else f"{name} has another digest")
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
