"""Checkpoints whose tensors are divided among processes: a folder of torch's distributed checkpoints (DCP).

    step-000000500.ckpt/__0_0.distcp, __1_0.distcp, ...    the parts that each process holds
    step-000000500.ckpt/.metadata                          which part lies where; pickled by torch
    step-000000500.ckpt/rest.pt                            all that is no tensor, and the names in the tree

A group of the state (`state_dict`, `optimizer`) that holds a `DTensor` is stored tensor by tensor, each under its path
in the tree as a JSON pointer (RFC 6901); every other group is stored whole by the first process. Any number of
processes reads what any other number has written, and a single one without process groups puts the whole together.

torch reads `.metadata` by an unpickler that would run whatever it says. Here it may make the few classes that torch
itself puts there, and it may ask only for files inside the folder.
"""

import pickle
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystem, FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor, distribute_tensor

from jepa.checkpoints.digested import DigestedFile, FileDigest, save_digested
from jepa.checkpoints.io import cannot_write, load_state, sync
from jepa.checkpoints.weights import misfit
from jepa.errors import ConfigError, DataError

METADATA, REST = ".metadata", "rest.pt"
Result = TypeVar("Result")
Keys = tuple[Any, ...]
"""From the root of a tree of dictionaries to one of its leaves."""

_CLASSES = {
    *(("torch.distributed.checkpoint.metadata", name) for name in (
        "BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta", "TensorProperties",
        "TensorStorageMetadata", "_MEM_FORMAT_ENCODING",
    )),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    ("torch", "Size"),
    ("collections", "OrderedDict"),
}  # fmt: skip
"""What a pickled `Metadata` of torch 2.10 to 2.15 is made of, besides torch's dtypes."""


class _Unpickler(pickle.Unpickler):
    """Makes what `Metadata` is made of, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and isinstance(found := getattr(torch, name, None), torch.dtype):
            return found
        if (module, name) not in _CLASSES:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


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


def agree(action: Callable[[], Result], path: Path, group: dist.ProcessGroup) -> list[Result]:
    """Do something in every process, and go on in all of them or in none; the results by rank.

    Raises:
        ConfigError: the disk failed in one of them, or something else did in another one.
    """
    mine: tuple[Result | None, str | None] = (None, None)
    failed: Exception | None = None
    try:
        mine = (action(), None)
    except Exception as error:
        failed = error
        told = error if isinstance(error, ConfigError) else cannot_write(path, error)
        mine = (None, str(told or f"cannot write {path}: {type(error).__name__} in process {dist.get_rank()}"))
    results: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(results, mine, group=group)
    reasons = [reason for _, reason in results if reason is not None]
    if failed is not None and not isinstance(failed, ConfigError) and cannot_write(path, failed) is None:
        raise failed
    if reasons:
        raise ConfigError(reasons[0]) from failed
    return [result for result, _ in results]


def write_shards(folder: Path, state: dict[str, Any], group: dist.ProcessGroup) -> dict[str, FileDigest]:
    """Write a state into a folder that is not there yet; called by all processes. Files by name, on the device.

    Raises:
        ConfigError: it cannot be written by one of the processes.
    """
    tensors, rest = split(state)
    first = dist.get_rank(group) == 0
    agree(lambda: folder.mkdir() if first else None, folder, group)
    own = _Files()
    writer = _Writer(folder, own)
    planner = DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    try:
        save(tensors, storage_writer=writer, planner=planner, process_group=group)
    except CheckpointException as error:
        rank, (cause, _) = min(error.failures.items())
        raise cannot_write(folder, cause) or RuntimeError(f"process {rank}: {cause}") from cause

    def finish() -> dict[str, FileDigest]:
        written = dict(own.written)
        if first:
            written[REST] = save_digested(rest, folder / REST)
        return written

    files = {name: file for written in agree(finish, folder, group) for name, file in written.items()}
    agree(lambda: _require_all(folder, files) if first else None, folder, group)
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
    paths = {name: path for name, path in _paths(state).items() if _is_divided(state[path[0]])}
    tensors = {name: _at(state, path).detach() for name, path in paths.items()}
    return tensors, {"tree": _without(state, paths, keep=True), "paths": paths}


def _paths(tree: Any, path: Keys = ()) -> dict[str, Keys]:
    """The keys to every tensor that hangs in dictionaries, by pointer."""
    if isinstance(tree, Tensor):
        return {pointer(path): path}
    inner = tree.items() if isinstance(tree, dict) else ()
    return {name: keys for key, value in inner for name, keys in _paths(value, (*path, key)).items()}


def _at(tree: Any, path: Keys) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _without(tree: Any, paths: dict[str, Keys], path: Keys = (), *, keep: bool) -> Any:
    """A tree with None at these places or, if they are not to be kept, without them."""
    if pointer(path) in paths:
        return None
    if not isinstance(tree, dict):
        return tree
    inner = {key: (*path, key) for key in tree}
    left = {key: keys for key, keys in inner.items() if keep or pointer(keys) not in paths}
    return {key: _without(tree[key], paths, keys, keep=keep) for key, keys in left.items()}


def _is_divided(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_is_divided(inner) for inner in value.values())
    return isinstance(value, DTensor)


def pointer(path: Keys) -> str:
    """JSON pointer (RFC 6901), in which a name may hold any character."""
    return "".join("/" + str(key).replace("~", "~0").replace("/", "~1") for key in path)


def read_rest(folder: Path) -> dict[str, Any]:
    """All but the tensors of the divided groups, which are None. Raises DataError."""
    return _rest(folder)[0]


def _rest(folder: Path) -> tuple[dict[str, Any], dict[str, Keys]]:
    content = load_state(folder / REST)
    tree, paths = content.get("tree"), content.get("paths")
    if not isinstance(tree, dict) or not isinstance(paths, dict):
        raise DataError(f"{folder / REST} is no part of a checkpoint of this package; restore it or start a new run")
    return tree, paths


def _metadata(folder: Path) -> Metadata:
    """Which tensors there are and where they lie. Raises DataError."""
    try:
        with (folder / METADATA).open("rb") as file:
            metadata = _Unpickler(file).load()
        if not isinstance(metadata, Metadata):
            raise pickle.UnpicklingError("it holds something else")
        for entry in metadata.state_dict_metadata.values():
            if not isinstance(entry, TensorStorageMetadata):
                raise pickle.UnpicklingError("it holds more than tensors")
        for place in metadata.storage_data.values():
            if Path(place.relative_path).name != place.relative_path:
                raise pickle.UnpicklingError("it points out of its folder")
    except FileNotFoundError as error:
        raise DataError(f"no checkpoint at {folder}: it has no {METADATA}") from error
    except Exception as error:  # a damaged pickle can end in any exception
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{folder / METADATA} is damaged or no part of a checkpoint ({reason[:120]})") from error
    return metadata


def _sizes(folder: Path, metadata: Metadata, paths: dict[str, Keys]) -> dict[str, TensorStorageMetadata]:
    """Of the tensors in a folder. Raises DataError unless they are those of the tree."""
    entries = metadata.state_dict_metadata.items()
    sizes = {name: entry for name, entry in entries if isinstance(entry, TensorStorageMetadata)}
    if sizes.keys() != paths.keys():
        raise DataError(f"{folder} is damaged: {REST} tells of other tensors than {METADATA}")
    return sizes


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
        reason = str(cause).splitlines()[0] if str(cause) else type(cause).__name__
        raise DataError(f"{folder} is damaged ({reason[:120]}); restore it or start a new run") from cause


def assemble(folder: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """The whole state in a folder, put together in this process. Raises DataError."""
    tree, paths = _rest(folder)
    metadata = _metadata(folder)
    sizes = _sizes(folder, metadata, paths)
    tensors = {name: torch.empty(sizes[name].size, dtype=sizes[name].properties.dtype) for name in paths}
    _read(folder, metadata, tensors, None)
    for name, path in paths.items():
        _put(tree, path, tensors[name].to(map_location))
    return tree


def _put(tree: dict[str, Any], path: Keys, value: Tensor) -> None:
    for key in path[:-1]:
        tree = tree[key]
    tree[path[-1]] = value


def fill(path: Path, state: dict[str, Any], group: dist.ProcessGroup) -> dict[str, Any]:
    """Fill the tensors of a state in place, each process its part; called by all processes.

    Args:
        path: data of a checkpoint, as a file or as a folder.
        state: groups of tensors as in the checkpoint.
        group: of all processes.

    Returns:
        The rest of the checkpoint.

    Raises:
        DataError: it is damaged, or does not fit.
    """
    wanted = {name: _at(state, keys) for name, keys in _paths(state).items()}
    if path.is_dir():
        metadata = _metadata(path)
        tree, paths = _rest(path)
        sizes = _sizes(path, metadata, paths)
        found = {name: torch.empty(entry.size, device="meta") for name, entry in sizes.items()}
    else:
        metadata, tree = None, load_state(path, lazy=True)
        paths = {name: keys for name, keys in _paths(tree).items() if keys[0] in state}
        found = {name: _at(tree, keys) for name, keys in paths.items()}
    if other := misfit({name: tensor for name, tensor in found.items() if paths[name][0] in state}, wanted):
        raise DataError(f"{path} does not fit: {other}")
    if metadata is not None:
        _read(path, metadata, wanted, group)
    else:
        for name, tensor in wanted.items():
            _copy(found[name], tensor)
    rest: dict[str, Any] = _without(tree, paths, keep=False)
    return rest


@torch.no_grad()
def _copy(whole: Tensor, target: Tensor) -> None:
    """Into a tensor of the same shape, of which this process may hold a part."""
    if isinstance(target, DTensor):
        part = distribute_tensor(whole, target.device_mesh, target.placements, src_data_rank=None)
        whole, target = part.to_local(), target.to_local()
    target.copy_(whole)
