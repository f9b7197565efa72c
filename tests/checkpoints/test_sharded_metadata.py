"""The metadata of a divided checkpoint are data: nothing in them is run, and they tell of what is there."""

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from jepa.checkpoints.read import read_checkpoint
from jepa.checkpoints.sharded_metadata import read_metadata
from jepa.checkpoints.store import CheckpointStore
from jepa.errors import DataError


@pytest.fixture
def folder(tmp_path: Path, together: Callable[..., list[object]]) -> Path:
    """A copy, without its manifest, of what two processes have written: 7 and 6 rows of one tensor, and another."""

    def write(rank: int) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.tensor import Shard, distribute_tensor

        mesh = init_device_mesh("cpu", (2,))
        whole = {"0.weight": torch.arange(91.0).reshape(13, 7), "0.bias": torch.arange(13.0)}
        weights = {name: distribute_tensor(tensor, mesh, [Shard(0)]) for name, tensor in whole.items()}
        CheckpointStore(tmp_path / "run").save_sharded(2, {"state_dict": weights}, {})

    assert together(2, write) == [None, None]
    return (tmp_path / "run" / "step-000000002.ckpt").rename(tmp_path / "odd.ckpt")


class Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("name", [".metadata", "rest.pt", "__0_0.distcp"])
def test_code_in_any_part_is_refused_and_not_run(folder: Path, name: str) -> None:
    mark = folder.parent / "executed"
    bomb = {"tree": Bomb(mark)}
    if name == "rest.pt":
        torch.save(bomb, folder / name)
    else:
        (folder / name).write_bytes(pickle.dumps(bomb, protocol=2))
    with pytest.raises(DataError) as caught:
        read_checkpoint(folder)
    assert "\n" not in str(caught.value)
    assert not mark.exists()


def test_metadata_that_point_out_of_the_folder_are_refused(folder: Path) -> None:
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    for place in metadata.storage_data.values():
        place.relative_path = f"../../{place.relative_path}"
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(DataError, match="points out of its folder"):
        read_checkpoint(folder)


def test_metadata_of_other_tensors_are_refused(folder: Path) -> None:
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    metadata.state_dict_metadata.popitem()
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(DataError, match="tells of other tensors"):
        read_checkpoint(folder)


Spoil = Callable[[TensorStorageMetadata], object]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda entry: entry.chunks.pop(),
        lambda entry: entry.chunks.clear(),
        lambda entry: entry.chunks.append(entry.chunks[0]),
        lambda entry: entry.chunks.__setitem__(1, entry.chunks[0]),
        lambda entry: setattr(entry.chunks[1], "offsets", entry.chunks[0].offsets),
        lambda entry: setattr(entry.chunks[1], "offsets", torch.Size([8, 0])),
        lambda entry: setattr(entry.chunks[0], "offsets", torch.Size([-1, 0])),
        lambda entry: setattr(entry.chunks[0], "offsets", torch.Size([0])),
        lambda entry: setattr(entry, "size", torch.Size([14, 7])),
        lambda entry: setattr(entry, "size", 91),
        lambda entry: setattr(entry.properties, "dtype", 3),
    ],
)
def test_parts_that_do_not_make_up_a_tensor_are_refused(folder: Path, spoil: Spoil) -> None:
    """What no part covers would be whatever lay in the memory."""
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    entry = metadata.state_dict_metadata["/state_dict/0.weight"]
    assert [tuple(part.sizes) for part in entry.chunks] == [(7, 7), (6, 7)]
    read_metadata(folder)
    spoil(entry)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(DataError, match="is damaged or no part of a checkpoint"):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02]r\xff\xff\xff\x7f.",  # an object with the number 2147483647
        b"\x80\x05\x96" + (4 << 30).to_bytes(8, "little") + b"x.",  # a bytearray of 4 GiB
        b"\x80\x04\x95" + (4 << 30).to_bytes(8, "little") + b"x.",  # a frame of 4 GiB
        b"\x80\x04\x8e" + (4 << 30).to_bytes(8, "little") + b"x.",  # bytes
    ],
    ids=["memo", "bytearray", "frame", "bytes"],
)
def test_a_few_bytes_do_not_take_gigabytes(folder: Path, content: bytes) -> None:
    (folder / ".metadata").write_bytes(content)
    code = (
        "import resource, sys; from pathlib import Path; from jepa.checkpoints.read import read_checkpoint\n"
        "from jepa.checkpoints import sharded\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\n"
        "try: read_checkpoint(Path(sys.argv[1]))\n"
        "except Exception as error: print(type(error).__name__, (peak() - before) // 1024)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True, timeout=300
    )
    kind, megabytes = done.stdout.split()
    assert kind == "DataError"
    assert int(megabytes) < 100
