"""Files of `torch.save` by strangers: read as data, or refused in one line.

A `.pt` file is a pickle, and a pickle may run anything when it is read. So `weights_only=True` always, and no second
try without it: what asks for more than tensors and plain values is refused. Beyond what torch allows by itself only
NumPy's numbers are let in, which training loops like to store beside the weights; they hold no code. Large files are
mapped into memory instead of read, so that optimizer states which nobody asked for cost nothing.
"""

import re
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jepa.errors import DataError

ZIP, PICKLE = b"PK\x03\x04", b"\x80"
_NUMBERS: list[Any] = [
    np.dtype,
    *(type(np.dtype(name)) for name in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?")),
    # The function that makes a NumPy number from its bytes, by its names in NumPy 1 and 2.
    (type(np.float64(0)).__reduce__(np.float64(0))[0], "numpy.core.multiarray.scalar"),
    (type(np.float64(0)).__reduce__(np.float64(0))[0], "numpy._core.multiarray.scalar"),
]


def read_container(path: Path) -> dict[str, Any]:
    """The dictionary in a file of `torch.save`, tensors on the CPU.

    Raises:
        DataError: there is no such file; it is empty, cut, no file of this kind, wants to run code, or holds no
            dictionary.
    """
    mapped = _sniff(path) == ZIP
    try:
        # In a thread of its own: what a damaged file leaves in torch's thread-local memory would trouble the next one.
        with ThreadPoolExecutor(1) as thread:
            content = thread.submit(_load, path, mapped).result()
    except Exception as error:  # a damaged pickle can end in any exception
        raise DataError(_refusal(path, error)) from error
    if not isinstance(content, dict) or not content:
        kind = "an empty dictionary" if content == {} else f"a {type(content).__name__}"
        raise DataError(f"{path} holds {kind}, expected the weights of a model by name")
    return content


def _load(path: Path, mapped: bool) -> Any:
    with torch.serialization.safe_globals(_NUMBERS), warnings.catch_warnings():
        # Sparse tensors are refused later, by name.
        warnings.filterwarnings("ignore", "Validating sparse tensor")
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)


def _sniff(path: Path) -> bytes:
    """How the file begins: ZIP or PICKLE. Raises DataError for everything else."""
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    for start in (ZIP, PICKLE):
        if head.startswith(start):
            return start
    if not head:
        raise DataError(f"{path} is no weights file: it is empty; download it again")
    if head.startswith(b"version https://git-lfs"):
        raise DataError(f"{path} is no weights file but a pointer of Git LFS: fetch it with `git lfs pull`")
    if re.match(rb"\s*<(!doctype|html|\?xml)", head, re.IGNORECASE):
        raise DataError(f"{path} is no weights file but a web page: download the file itself")
    kind = "binary of an unknown kind" if b"\0" in head else "text"
    raise DataError(f"{path} is no encoder: it is {kind}, expected .pt, .pth.tar, .safetensors or a folder")


def _refusal(path: Path, error: Exception) -> str:
    text = str(error)
    if asked := re.search(r"(?:GLOBAL|Unsupported global:?|Unsupported class) ([\w.]+)", text):
        return (
            f"{path} is more than weights: reading it would run `{asked[1]}`, which is refused; use a file of its "
            "publisher, or one that holds tensors only"
        )
    reason = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    return f"{path} is damaged or no weights file ({reason[:120]}); download it again"
