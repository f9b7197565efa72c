"""Items come out of the pipe as they went in, large or small, and nothing stays open behind them."""

import multiprocessing
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa.data.transport import INLINE, receive, send
from jepa.tokens import Mask

DTYPES = [torch.uint8, torch.bool, torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.complex64]


def travelled(item: object) -> Any:
    """The item after its way through a pipe."""
    ours, theirs = multiprocessing.Pipe()
    with ours, theirs:
        send(theirs, 3, -7, item)
        tag, number, copy = receive(ours)
    assert (tag, number) == (3, -7)
    return copy


@settings(deadline=None, max_examples=60)
@given(
    shape=st.lists(st.integers(0, 5), max_size=4),
    dtype=st.sampled_from(DTYPES),
    repeats=st.sampled_from([1, 3, 4000]),
    turned=st.booleans(),
)
def test_tensors_and_arrays_arrive_bit_by_bit(shape: list[int], dtype: torch.dtype, repeats: int, turned: bool) -> None:
    content = torch.randint(0, 255, (*shape, repeats), generator=torch.Generator().manual_seed(len(shape)))
    tensor = content.to(dtype)
    if turned and tensor.dim() > 1:
        tensor = tensor.transpose(0, -1)[::2]
    item = {"tensor": tensor, "array": content.numpy(), "rest": ("text", 5, None, b"bytes"), "again": tensor}
    copy = travelled(item)
    assert copy["tensor"].dtype == dtype
    assert torch.equal(copy["tensor"], tensor)
    assert copy["tensor"] is copy["again"]
    assert np.array_equal(copy["array"], content.numpy())
    assert copy["array"].dtype == content.numpy().dtype
    assert copy["rest"] == item["rest"]
    copy["tensor"].zero_()  # the receiver may write, and so into nothing of the sender's
    copy["array"][:] = 1
    assert torch.equal(tensor, content.to(dtype).transpose(0, -1)[::2] if turned and shape else content.to(dtype))


def test_what_is_no_plain_tensor_travels_as_torch_has_it() -> None:
    weight = torch.nn.Parameter(torch.arange(3.0))
    copies = travelled([weight, torch.full((3,), 2j).conj(), torch.tensor(5.0), torch.empty(0, 3)])
    assert isinstance(copies[0], torch.nn.Parameter)
    assert torch.equal(copies[0], weight)
    assert copies[0].requires_grad
    assert copies[1].tolist() == [-2j] * 3
    assert copies[2].shape == ()
    assert copies[3].shape == (0, 3)


@pytest.mark.parametrize("repeats", [1, INLINE])
def test_a_mask_arrives_with_its_blocks(repeats: int) -> None:
    mask = Mask(torch.tensor([[0, 3]]), torch.tensor([[1, 2, 2, 4]]).repeat(1, repeats), blocks=2)
    copy = travelled(mask)
    assert copy.blocks == 2
    assert torch.equal(copy.context, mask.context)
    assert torch.equal(copy.target, mask.target)


@dataclass(frozen=True)
class Batch:
    clips: torch.Tensor
    numbers: np.ndarray


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_items_that_are_kept_keep_no_file_open() -> None:
    def opened() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - counts, does not walk

    travelled(Batch(torch.zeros(INLINE), np.zeros(3)))
    before = opened()
    kept = [travelled(Batch(torch.full((INLINE,), float(n)), np.full(INLINE, n))) for n in range(30)]
    assert opened() == before
    assert all((batch.clips == n).all() and (batch.numbers == n).all() for n, batch in enumerate(kept))
    for batch in kept:  # where vector instructions want them
        assert batch.clips.data_ptr() % 64 == 0
        assert batch.numbers.ctypes.data % 64 == 0


def test_a_part_of_an_item_keeps_its_memory() -> None:
    copy = travelled(Batch(torch.arange(INLINE), np.zeros(INLINE)))
    piece = copy.clips[100:103]
    del copy
    assert piece.tolist() == [100, 101, 102]
