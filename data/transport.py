"""How what a worker has made comes to its parent: one message on their pipe, large arrays in memory that both map.

An item is pickled; the contents of its tensors and arrays stay out of the pickle (protocol 5) and follow it, each at a
multiple of 64 bytes. If all of that is small it is the message. Else it goes into an anonymous file in memory, whose
descriptor travels with the message: it is then in the hands of the kernel, so that nothing is lost if the sender ends,
or is killed, right behind it. The receiver maps the file and keeps no descriptor, so any number of items may be held;
the memory goes with the last tensor that looks into it. Pixels are copied once, by the sender.
"""

import os
import pickle
import struct
from collections.abc import Iterable, Sequence
from io import BytesIO
from itertools import pairwise
from multiprocessing import reduction
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jepa.data.watchdog import anonymous_file
from jepa.errors import ConfigError

INLINE = 2**16
"""Bytes that go through the pipe itself."""
ALIGNMENT = 64

_HEAD = struct.Struct("<qqq")
"""Tag, number, count of parts; their sizes follow."""


def send(connection: "Connection[Any, Any]", tag: int, number: int, item: object) -> None:
    """Send an item with two numbers that say what it is.

    Raises:
        ConfigError: there is no memory for it.
        TypeError: it cannot be pickled.
        OSError: nobody reads.
    """
    parts = _dump(item)
    sizes = [part.nbytes for part in parts]
    head = _HEAD.pack(tag, number, len(sizes)) + struct.pack(f"<{len(sizes)}q", *sizes)
    places, total = _layout(sizes, len(head))
    if total <= INLINE:
        message = bytearray(total)
        message[: len(head)] = head
        for place, part in zip(places, parts, strict=True):
            message[place : place + part.nbytes] = part
        connection.send_bytes(message)
        return
    places, total = _layout(sizes, 0)
    descriptor = _filled(zip(places, parts, strict=True), total)
    try:
        connection.send_bytes(head)
        reduction.send_handle(connection, descriptor, 0)
    finally:
        os.close(descriptor)


def receive(connection: "Connection[Any, Any]") -> tuple[int, int, Any]:
    """Tag, number and item of the next message.

    Raises:
        EOFError, OSError: the sender is gone.
    """
    message = connection.recv_bytes()
    tag, number, count = _HEAD.unpack_from(message)
    sizes = struct.unpack_from(f"<{count}q", message, _HEAD.size)
    head = _HEAD.size + 8 * count
    places, total = _layout(sizes, head)
    if len(message) > head:
        memory = np.frombuffer(bytearray(message), np.uint8)
    else:
        places, total = _layout(sizes, 0)
        memory = _mapped(reduction.recv_handle(connection), total)
    pickled, *buffers = [memory[place : place + size] for place, size in zip(places, sizes, strict=True)]
    return tag, number, pickle.loads(pickled.data, buffers=buffers)


class _Pickler(pickle.Pickler):
    """Tensors as NumPy arrays are pickled: by their content, beside the pickle."""

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is not Tensor or obj.device.type != "cpu" or obj.layout != torch.strided or obj.requires_grad:
            return NotImplemented
        if obj.is_conj() or obj.is_neg() or obj.is_quantized:
            return NotImplemented
        content: Any = obj.contiguous().reshape(-1).view(torch.uint8).numpy()
        return _tensor, (pickle.PickleBuffer(content), obj.dtype, tuple(obj.shape))


def _tensor(content: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    if 0 in shape:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(content, dtype=dtype).reshape(shape)


def _dump(item: object) -> list[memoryview]:
    buffers: list[pickle.PickleBuffer] = []
    stream = BytesIO()
    try:
        _Pickler(stream, protocol=5, buffer_callback=buffers.append).dump(item)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise TypeError(f"a {type(item).__name__} cannot be sent from a worker process: {error}") from error
    return [stream.getbuffer(), *(buffer.raw() for buffer in buffers)]


def _layout(sizes: Sequence[int], start: int) -> tuple[list[int], int]:
    """Where each part begins, and where the last one ends."""
    places = [start]
    for size in sizes:
        places.append(-(-(places[-1]) // ALIGNMENT) * ALIGNMENT + size)
    return [end - size for (_, end), size in zip(pairwise(places), sizes, strict=True)], places[-1]


def _filled(parts: Iterable[tuple[int, memoryview]], size: int) -> int:
    """Descriptor of a file in memory that holds the parts at their places.

    Written, not mapped: that is quicker (pages need not be zeroed first), and too little memory is an error here
    and not the end of the process.
    """
    descriptor = anonymous_file("jepa-item")
    try:
        os.ftruncate(descriptor, size)
        for place, part in parts:
            _write(descriptor, part, place)
    except OSError as error:
        os.close(descriptor)
        raise ConfigError(
            f"no memory for {size / 1e6:.0f} MB from a worker process ({error.strerror}): lower loader.workers, "
            "loader.prefetch or loader.batch_size"
        ) from None
    return descriptor


def _write(descriptor: int, part: memoryview, place: int) -> None:
    while part:
        written = os.pwrite(descriptor, part[: 2**30], place)  # the system takes two gigabytes at once, at most
        part, place = part[written:], place + written


def _mapped(descriptor: int, size: int) -> np.ndarray:
    """The content of a file in memory, without a copy; takes the descriptor."""
    try:
        # torch and not `mmap`, which would keep the descriptor for as long as the memory is in use.
        return torch.from_file(f"/dev/fd/{descriptor}", shared=True, size=size, dtype=torch.uint8).numpy()
    finally:
        os.close(descriptor)
