"""Checkpoints whose tensors are divided among processes: a folder of torch's distributed checkpoints (DCP).

    step-000000500.ckpt/__0_0.distcp, __1_0.distcp, ...    the parts that each process holds
    step-000000500.ckpt/.metadata                          which part lies where; pickled by torch
    step-000000500.ckpt/rest.pt                            all that is no tensor, and the names in the tree

A group of the state (`state_dict`, `optimizer`) that holds a `DTensor` is stored tensor by tensor, each under its path
in the tree as a JSON pointer (RFC 6901); every other group is stored whole by the first process. Any number of
processes reads what any other number has written, and a single one without process groups puts the whole together.
"""

import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystem, FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor, distribute_tensor

from jepa.checkpoints.digested import DigestedFile, FileDigest, save_digested
from jepa.checkpoints.io import load_state, sync
from jepa.checkpoints.sharded_metadata import read_metadata, sizes_of
from jepa.checkpoints.tree import Keys, at, leaves, pointer, put, without
from jepa.checkpoints.weights import misfit
from jepa.errors import ConfigError, DataError

REST = "rest.pt"
Result = TypeVar("Result")
Make = Callable[[Keys, torch.Size, torch.dtype], Tensor]
"""An empty tensor for what lies at these keys of a checkpoint, divided among processes or not."""
Told = Callable[[BaseException], ConfigError | None]
"""What to say of an error in writing; none if it was not the disk that failed."""


class _Files(FileSystem):
    """Files whose digests are known when they have been written."""

    def __init__(self) -> None:
        self.written: dict[str, FileDigest] = {}

    @contextmanager
    def create_stream(self, path: Any, mode: str) -> Iterator[Any]:
        with DigestedFile(Path(path)) as file:
            yield file
        self.written[Path(path).name] = file.result()

    def rename(self, path: Any, new_path: Any) -> None:
        super().rename(path, new_path)
        self.written[Path(new_path).name] = self.written.pop(Path(path).name)


class _Writer(FileSystemWriter):
    """One file per process."""

    def __init__(self, path: Path, files: _Files) -> None:
        # No copying ahead: it would open the first GPU in every process that writes in the background.
        super().__init__(path, sync_files=False, per_thread_copy_ahead=0)
        self.fs = files

    def storage_meta(self) -> StorageMeta:
        return StorageMeta()  # without the temporary name of the folder


class _Reader(FileSystemReader):
    """Reads by metadata that have been checked."""

    def __init__(self, path: Path, metadata: Metadata) -> None:
        super().__init__(path)
        self._metadata = metadata

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        return self._metadata


def agree(action: Callable[[], Result], group: dist.ProcessGroup, told: Told) -> list[Result]:
    """Do something in every process, and go on in all of them or in none; the results by rank.

    Raises:
        ConfigError: the disk failed in one of them, or something else did in another one.
    """
    result: Result | None = None
    failed: Exception | None = None
    reason: str | None = None
    try:
        result = action()
    except Exception as error:
        failed, known = error, told(error)
        reason = str(known) if known else f"saving failed in process {dist.get_rank(group)}: {error!r}"
    results: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(results, (result, reason), group=group)
    if failed is not None and told(failed) is None:
        raise failed
    for _, other in results:
        if other is not None:
            raise ConfigError(other) from failed
    return [result for result, _ in results]


def write_shards(folder: Path, state: dict[str, Any], group: dist.ProcessGroup, told: Told) -> dict[str, FileDigest]:
    """Write a state into a folder that is not there yet; called by all processes.

    Args:
        folder: whose parent is there.
        state: to be written.
        group: of all processes.
        told: says which errors are those of the disk.

    Returns:
        All files by name; they are on the device.

    Raises:
        ConfigError: as `agree`.
    """
    tensors, rest = split(state)
    first = dist.get_rank(group) == 0
    agree(lambda: folder.mkdir() if first else None, group, told)
    own = _Files()
    planner = DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    try:
        save(tensors, storage_writer=_Writer(folder, own), planner=planner, process_group=group)
    except CheckpointException as error:
        rank, (cause, _) = min(error.failures.items())  # all processes are told of all failures
        raise told(cause) or ConfigError(f"saving failed in process {rank}: {cause!r}") from cause

    def finish() -> dict[str, FileDigest]:
        return own.written | ({REST: save_digested(rest, folder / REST)} if first else {})

    files = {name: file for written in agree(finish, group, told) for name, file in written.items()}
    agree(lambda: _require_all(folder, files) if first else None, group, told)
    return files


def _require_all(folder: Path, files: dict[str, FileDigest]) -> None:
    """Raise ConfigError unless this process sees what all have written."""
    sync(folder)
    if absent := [name for name in files if not (folder / name).is_file()]:
        raise ConfigError(
            f"{folder} lacks {absent[0]}, which another process has written: give an --out that all machines share"
        )


def split(state: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of the groups that are divided among processes by pointer, and the rest.

    Returns:
        Tensors; and `tree`, the state with None for each of them, and `paths`, the keys to each of them.
    """
    paths = {name: path for name, path in leaves(state).items() if _is_divided(state[path[0]])}
    tensors = {name: at(state, path).detach() for name, path in paths.items()}
    return tensors, {"tree": without(state, paths, keep=True), "paths": paths}


def _is_divided(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_is_divided(inner) for inner in value.values())
    return isinstance(value, DTensor)


def read_rest(folder: Path) -> dict[str, Any]:
    """All but the tensors of the divided groups, which are None. Raises DataError."""
    return _rest(folder)[0]


def _rest(folder: Path) -> tuple[dict[str, Any], dict[str, Keys]]:
    content = load_state(folder / REST)
    tree, paths = content.get("tree"), content.get("paths")
    if (
        not isinstance(tree, dict)
        or not isinstance(paths, dict)
        or not all(isinstance(keys, tuple) and pointer(keys) == name for name, keys in paths.items())
    ):
        raise DataError(f"{folder / REST} is no part of a checkpoint of this package; restore it or start a new run")
    return tree, paths


def _read(folder: Path, metadata: Metadata, tensors: dict[str, Tensor], group: dist.ProcessGroup | None) -> None:
    """Fill tensors in place; without a group in this process alone. Raises DataError."""
    planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            reader = _Reader(folder, metadata)
            load(dict(tensors), storage_reader=reader, planner=planner, process_group=group, no_dist=group is None)
    except CheckpointException as error:
        _, (cause, _) = min(error.failures.items())
        raise _damaged(folder, cause) from cause


def _damaged(folder: Path, error: BaseException) -> DataError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return DataError(f"{folder} is damaged ({reason[:120]}); restore it or start a new run")


def assemble(folder: Path, map_location: Any = "cpu", groups: Collection[str] | None = None) -> dict[str, Any]:
    """The state in a folder, put together in this process; without the divided groups that are not asked for.

    Raises:
        DataError: it is damaged.
    """
    tree, paths = _rest(folder)
    metadata = read_metadata(folder)
    sizes = sizes_of(folder, metadata, paths)
    unwanted = {keys[0] for keys in paths.values() if groups is not None and keys[0] not in groups}
    wanted = {name: keys for name, keys in paths.items() if keys[0] not in unwanted}
    try:
        tensors = {name: torch.empty(sizes[name].size, dtype=sizes[name].properties.dtype) for name in wanted}
        _read(folder, metadata, tensors, None)
        for name, keys in wanted.items():
            put(tree, keys, tensors[name].to(map_location))
    except (RuntimeError, TypeError, AttributeError) as error:
        raise _damaged(folder, error) from error
    return {name: group for name, group in tree.items() if name not in unwanted}


def fill(
    path: Path, state: dict[str, Any], group: Callable[[], dist.ProcessGroup], make: Make | None = None
) -> dict[str, Any]:
    """Fill the tensors of a state in place, each process its part; called by all processes.

    Args:
        path: data of a checkpoint, as a file or as a folder.
        state: groups of tensors as in the checkpoint; an empty one is not asked for.
        group: makes that of all processes, who agree on who reads what of a folder. A file is mapped into memory by
            each of them, and copied tensor by tensor.
        make: makes a tensor of the checkpoint that has no place in the state yet; its place is then made too.

    Returns:
        The rest of the checkpoint.

    Raises:
        DataError: it is damaged, or does not fit.
    """
    asked = {name for name, tensors in state.items() if tensors}
    metadata: Metadata | None = None
    found: dict[str, Tensor]
    if path.is_dir():
        metadata = read_metadata(path)
        tree, paths = _rest(path)
        sizes = sizes_of(path, metadata, paths)
        found = {name: torch.empty(one.size, dtype=one.properties.dtype, device="meta") for name, one in sizes.items()}
    else:
        tree = load_state(path, lazy=True)
        paths = {name: keys for name, keys in leaves(tree).items() if keys[0] in asked}
        found = {name: at(tree, keys) for name, keys in paths.items()}
    found = {name: tensor for name, tensor in found.items() if paths[name][0] in asked}
    wanted = leaves(state)
    if make is not None:
        for name in sorted(found.keys() - wanted.keys()):
            put(state, paths[name], make(paths[name], found[name].shape, found[name].dtype))
            wanted[name] = paths[name]
    places = {name: at(state, keys) for name, keys in wanted.items() if keys[0] in asked}
    if other := misfit(found, places):
        raise DataError(f"{path} does not fit: {other}")
    if metadata is not None:
        _read(path, metadata, places, group())
    else:
        for name, tensor in places.items():
            _copy(found[name], tensor)
    rest: dict[str, Any] = without(tree, paths, keep=False)
    return rest


@torch.no_grad()
def _copy(whole: Tensor, target: Tensor) -> None:
    """Into a tensor of the same shape, of which this process may hold a part."""
    if isinstance(target, DTensor):
        # Every process has the whole tensor, and keeps its part: nothing is sent.
        whole = whole.to(target.device)
        part = distribute_tensor(whole, target.device_mesh, target.placements, src_data_rank=None)
        whole, target = part.to_local(), target.to_local()
    target.copy_(whole)
