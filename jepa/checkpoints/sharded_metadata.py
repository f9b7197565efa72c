"""The metadata of a folder of torch's distributed checkpoints, read without running anything.

torch pickles them, and reads them by an unpickler that would run whatever they say. Here it may make the few classes
that torch itself puts there, of tensors only, and these may lie only in files inside the folder. A tensor is made
before it is read, and what no part of it covers would be whatever lay in the memory: so the parts have to cover it.
"""

import io
import math
import pickle
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, ClassVar

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


class _Unpickler(pickle._Unpickler):
    """Makes what `Metadata` is made of, and nothing else.

    It is the one in Python: that in C makes a table as long as the greatest number of an object in the file, which a
    few bytes can make gigabytes. For the same reason it knows no `bytearray` of a given length; torch writes none.
    """

    dispatch: ClassVar[dict[int, Callable[[pickle.Unpickler], None]]] = {
        code: read for code, read in pickle._Unpickler.dispatch.items() if code != pickle.BYTEARRAY8[0]
    }

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and isinstance(found := getattr(torch, name, None), torch.dtype):
            return found
        if (module, name) not in _CLASSES:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def read_metadata(folder: Path) -> Metadata:
    """Which tensors there are and where they lie. Raises DataError."""
    try:
        # All of it first: no length in it makes more than that be read.
        metadata = _Unpickler(io.BytesIO((folder / METADATA).read_bytes())).load()
        if not isinstance(metadata, Metadata):
            raise pickle.UnpicklingError("it holds something else")
        for name, entry in metadata.state_dict_metadata.items():
            if not isinstance(entry, TensorStorageMetadata) or not isinstance(entry.properties.dtype, torch.dtype):
                raise pickle.UnpicklingError("it holds more than tensors")
            if not _is_covered(entry):
                raise pickle.UnpicklingError(f"its parts do not make up the tensor {name}")
        for place in metadata.storage_data.values():
            if Path(place.relative_path).name != place.relative_path:
                raise pickle.UnpicklingError("it points out of its folder")
    except FileNotFoundError as error:
        raise DataError(f"no checkpoint at {folder}: it has no {METADATA}") from error
    except Exception as error:  # a damaged pickle can end in any exception
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{folder / METADATA} is damaged or no part of a checkpoint ({reason[:120]})") from error
    return metadata


def _is_covered(entry: TensorStorageMetadata) -> bool:
    """Whether the parts of a tensor lie inside it, apart from each other, and leave nothing out."""
    size = tuple(entry.size)
    boxes = []
    for part in entry.chunks:
        begins, lengths = tuple(part.offsets), tuple(part.sizes)
        if not len(begins) == len(lengths) == len(size):
            return False
        if any(b < 0 or n < 0 or b + n > whole for b, n, whole in zip(begins, lengths, size, strict=True)):
            return False
        if math.prod(lengths):
            boxes.append([(b, b + n) for b, n in zip(begins, lengths, strict=True)])
    if sum(math.prod(end - begin for begin, end in box) for box in boxes) != math.prod(size):
        return False
    # From one end of the first axis to the other: only with those that have not ended can one overlap.
    open_boxes: list[list[tuple[int, int]]] = []
    for box in sorted(boxes):
        open_boxes = [other for other in open_boxes if other[0][1] > box[0][0]]
        if any(all(a < d and c < b for (a, b), (c, d) in zip(box, other, strict=True)) for other in open_boxes):
            return False
        open_boxes.append(box)
    return True


def sizes_of(folder: Path, metadata: Metadata, names: Collection[str]) -> dict[str, TensorStorageMetadata]:
    """Of the tensors in a folder. Raises DataError unless they have these names."""
    entries = metadata.state_dict_metadata.items()
    sizes = {name: entry for name, entry in entries if isinstance(entry, TensorStorageMetadata)}
    if sizes.keys() != set(names):
        raise DataError(f"{folder} is damaged: {METADATA} tells of other tensors than are expected")
    return sizes
