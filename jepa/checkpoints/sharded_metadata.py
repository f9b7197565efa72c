"""The metadata of a folder of torch's distributed checkpoints, read without running anything.

torch pickles them, and reads them by an unpickler that would run whatever they say. Here it may make the few classes
that torch itself puts there, of tensors only, and these may lie only in files inside the folder.
"""

import pickle
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

from jepa.errors import DataError

METADATA = ".metadata"

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


def read_metadata(folder: Path) -> Metadata:
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


def sizes_of(folder: Path, metadata: Metadata, names: Collection[str]) -> dict[str, TensorStorageMetadata]:
    """Of the tensors in a folder. Raises DataError unless they have these names."""
    entries = metadata.state_dict_metadata.items()
    sizes = {name: entry for name, entry in entries if isinstance(entry, TensorStorageMetadata)}
    if sizes.keys() != set(names):
        raise DataError(f"{folder} is damaged: {METADATA} tells of other tensors than are expected")
    return sizes
