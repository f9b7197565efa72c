"""Checkpoints of several processes: whatever number wrote them, any number reads the same tensors."""

import os
import re
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from jepa.checkpoints.manifest import data_name, manifest_name
from jepa.checkpoints.read import checkpoint_digest, read_checkpoint, read_facts
from jepa.checkpoints.store import CheckpointStore, Saved
from jepa.errors import ConfigError, DataError

Together = Callable[..., list[Any]]
STEP = 3


def divided(seed: int) -> dict[str, Any]:
    """State of a model that FSDP2 has divided, after a step of AdamW; 7 and 13 do not divide evenly."""
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(7, 13), nn.LayerNorm(13), nn.Linear(13, 3, bias=False))
    for part in (*model, model):
        fully_shard(part)
    optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
    for parameter in model.parameters():  # without a backward pass, whose threads do not survive a fork
        parameter.grad = parameter.detach() * 0.1 + 1
    optimizer.step()
    names = {parameter: name for name, parameter in model.named_parameters()}
    moments = {names[parameter]: values for parameter, values in optimizer.state.items()}
    return {"state_dict": model.state_dict(), "optimizer": {"state": moments}}


def whole(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: whole(inner) for key, inner in value.items()}
    return value.full_tensor().detach().clone() if hasattr(value, "full_tensor") else value


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    return bool(one == other)


REST = {"callbacks": {"rows": {"sums": {"a/b~c": torch.arange(3.0)}, "count": 2}, "none": {}}}


def save(folder: Path, step: int = STEP, *, size: int = 2, together: Together) -> dict[str, Any]:
    """Write one by so many processes; the tensors as they were, whole."""

    def write(rank: int) -> Any:
        state = divided(step)
        saved = CheckpointStore(folder).save_sharded(step, {**state, **REST}, {"fingerprint": "f00"})
        assert saved.path == folder / data_name(step)
        return whole(state)

    results = together(size, write)
    for result in results:
        assert isinstance(result, dict), repr(result)
        assert same(result, results[0])
    written: dict[str, Any] = results[0]
    return written


@pytest.mark.parametrize("writers", [1, 2, 3])
def test_any_number_of_processes_reads_what_any_number_wrote(tmp_path: Path, together: Together, writers: int) -> None:
    folder = tmp_path / "checkpoints"
    state = save(folder, size=writers, together=together)
    store = CheckpointStore(folder)
    saved = store.newest()
    assert saved is not None
    assert saved == Saved.at(folder / "last.ckpt")
    assert saved.facts == {"fingerprint": "f00", "format_version": 2, "step": STEP} == read_facts(saved.path)
    assert same(store.load(saved), {**state, **REST, "jepa": saved.facts})  # by a process without a group
    weights = read_checkpoint(folder / "last.ckpt", groups=("state_dict",))
    assert same(weights, {"state_dict": state["state_dict"], **REST, "jepa": saved.facts})

    def read(rank: int) -> Any:
        own = divided(99)
        rest = CheckpointStore(folder).load_sharded(saved, own)
        return whole(own), rest["callbacks"], rest["jepa"]

    for readers in (1, 2, 3):
        for result in together(readers, read):
            assert same(dict(enumerate(result)), {0: state, 1: REST["callbacks"], 2: saved.facts}), repr(result)


def test_the_parts_lie_divided(tmp_path: Path, together: Together) -> None:
    """Each process writes its own rows: no file holds the whole of it."""
    save(tmp_path, size=2, together=together)
    sizes = {path.name: path.stat().st_size for path in (tmp_path / data_name(STEP)).iterdir()}
    assert sizes.keys() == {".metadata", "__0_0.distcp", "__1_0.distcp", "rest.pt"}


def test_a_file_is_read_into_divided_tensors(tmp_path: Path, together: Together) -> None:
    """A run of one process goes on divided among two."""

    def write(rank: int) -> Any:
        state = whole(divided(STEP))
        CheckpointStore(tmp_path).save(STEP, {**state, **REST}, {})
        return state

    (state,) = together(1, write)
    saved = Saved.at(tmp_path / "last.ckpt")

    def read(rank: int) -> Any:
        own = divided(99)
        rest = CheckpointStore(tmp_path).load_sharded(saved, {**own, "callbacks": {}})
        return whole(own), rest["callbacks"]

    for result in together(2, read):
        assert same(dict(enumerate(result)), {0: state, 1: REST["callbacks"]}), repr(result)


def test_places_are_made_for_tensors_that_have_none(tmp_path: Path, together: Together) -> None:
    """An optimizer without moments; each becomes divided as its parameter is."""
    state = save(tmp_path, together=together)

    def read(rank: int) -> Any:
        own = divided(99)
        like = own["state_dict"]
        fresh = {"state_dict": like, "optimizer": {"state": {}}}

        def make(keys: tuple[Any, ...], shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
            return torch.empty_like(like[keys[2]]) if keys[3] != "step" else torch.empty(shape, dtype=dtype)

        CheckpointStore(tmp_path).load_sharded(Saved.at(tmp_path / "last.ckpt"), fresh, make)
        return whole(fresh)

    for result in together(2, read):
        assert same(result, state), repr(result)


def test_another_model_is_refused_by_all_and_changes_nothing(tmp_path: Path, together: Together) -> None:
    save(tmp_path, together=together)

    def read(rank: int) -> Any:
        own = divided(99)
        before = whole(own)
        own["state_dict"]["extra"] = own["state_dict"].pop("1.bias")
        try:
            CheckpointStore(tmp_path).load_sharded(Saved.at(tmp_path / "last.ckpt"), own)
        except DataError as error:
            own["state_dict"]["1.bias"] = own["state_dict"].pop("extra")
            return str(error), same(whole(own), before)

    for text, unchanged in together(2, read):
        assert "1 unknown (/state_dict/1.bias); 1 missing (/state_dict/extra)" in text
        assert unchanged


def test_saving_beside_the_training_writes_the_state_of_then(tmp_path: Path, together: Together) -> None:
    """Collectives of the training step run at the same time, over another group."""

    def write(rank: int) -> Any:
        import torch.distributed as dist

        from jepa.checkpoints.background import BackgroundSaver

        saver, state = BackgroundSaver(CheckpointStore(tmp_path)), divided(STEP)
        before = whole(state)
        saver.submit(STEP, state, {}, sharded=True)
        for tensor in state["state_dict"].values():
            tensor.zero_()
        for _ in range(200):
            dist.all_reduce(torch.ones(1000))
        assert saver.wait() is not None
        return before

    first, second = together(2, write)
    assert same(first, second), repr(first)
    found = read_checkpoint(tmp_path / "last.ckpt")
    assert same({name: found[name] for name in first}, first)


def test_a_whole_one_is_left_and_old_ones_go(tmp_path: Path, together: Together) -> None:
    def write(rank: int) -> Any:
        store, state = CheckpointStore(tmp_path, keep_last=1), divided(1)
        times = []
        for step in (1, 2, 3, 3):
            saved = store.save_sharded(step, state, {})
            times.append((saved.path / ".metadata").stat().st_mtime_ns)
        return times[2] == times[3]

    assert together(2, write) == [True, True]
    assert {path.name for path in tmp_path.iterdir()} == {
        "last.ckpt", data_name(3), manifest_name(3), *(path.name for path in tmp_path.glob(".meeting*"))
    }  # fmt: skip


def test_connections_are_made_for_divided_models_only_and_let_go(tmp_path: Path, together: Together) -> None:
    def work(rank: int) -> Any:
        import torch.distributed as dist

        def groups() -> int:
            return len(dist.distributed_c10d._world.pg_map)

        store, state = CheckpointStore(tmp_path), divided(1)
        before, content = groups(), whole(state)
        if rank == 0:
            store.save(1, content, {})
        dist.barrier()
        store.load_sharded(Saved.at(tmp_path / data_name(1)), {"state_dict": state["state_dict"]})
        counts = [groups() - before]
        for step in (2, 3):
            store.save_sharded(step, state, {})
            counts.append(groups() - before)
            store.close()
            counts.append(groups() - before)
        return counts

    assert together(2, work) == [[0, 1, 0, 1, 0]] * 2


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", [".metadata", "__0_0.distcp", "__1_0.distcp", "rest.pt"])
@pytest.mark.parametrize("damage", [Path.unlink, flip, lambda path: os.truncate(path, 100)], ids=["gone", "bit", "cut"])
def test_a_damaged_or_missing_part_is_passed_over(
    written_twice: Path, tmp_path: Path, name: str, damage: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(written_twice, tmp_path / "checkpoints", symlinks=True)
    store = CheckpointStore(tmp_path / "checkpoints")
    damage(store.folder / data_name(2) / name)
    saved = store.newest()
    assert saved is not None
    assert saved.step == 1
    assert f"step 2 cannot be used, that of step 1 is: {data_name(2)}/{name}" in caplog.text
    with pytest.raises(DataError, match=f"is damaged .*{re.escape(name)}"):
        read_checkpoint(store.folder / data_name(2))


@pytest.fixture(scope="module")
def written_twice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of the steps 1 and 2, by two processes."""
    return tmp_path_factory.mktemp("written") / "checkpoints"


@pytest.fixture(autouse=True)
def _written(request: pytest.FixtureRequest) -> None:
    if "written_twice" in request.fixturenames:
        folder = request.getfixturevalue("written_twice")
        if not folder.exists():
            for step in (1, 2):
                save(folder, step, together=request.getfixturevalue("together"))


def test_a_digest_of_all_parts(written_twice: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.ckpt"
    shutil.copytree(written_twice / data_name(2), copy)
    assert checkpoint_digest(copy) == checkpoint_digest(written_twice / data_name(2))
    assert checkpoint_digest(copy) != checkpoint_digest(written_twice / data_name(1))
    flip(copy / "__1_0.distcp")
    assert checkpoint_digest(copy) != checkpoint_digest(written_twice / data_name(2))


@pytest.mark.parametrize(
    "ever_after", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["once", "from then on"]
)
@pytest.mark.parametrize(("writers", "failing"), [(2, 0), (2, 1), pytest.param(1, 0, marks=pytest.mark.slow)])
def test_an_error_of_the_device_in_one_process_is_one_in_all(
    memory_path: Path,
    together: Together,
    disturb: Callable[..., Callable[[], bool]],
    ever_after: bool,
    writers: int,
    failing: int,
) -> None:
    """Before each of its operations; what was there stays."""
    folder = memory_path / "checkpoints"
    first = save(folder, 1, size=writers, together=together)
    for number in range(1, 300):

        def write(rank: int, number: int = number) -> Any:
            state = divided(2)
            store = CheckpointStore(folder, timeout=timedelta(seconds=60))
            store.group()
            reached = disturb(number, _fail, ever_after=ever_after) if rank == failing else None
            store.save_sharded(2, state, {})
            return reached is not None and reached()

        results = together(writers, write)
        saved = CheckpointStore(folder).newest()
        assert saved is not None
        if failed := [result for result in results if isinstance(result, BaseException)]:
            assert len(failed) == writers, repr(results)
            for error in failed:
                assert isinstance(error, ConfigError), repr(error)
                assert "Input/output error" in str(error)
                assert "\n" not in str(error)
        else:
            assert saved.step == 2
            if not any(results):
                break
        if saved.step == 1:
            found = CheckpointStore(folder).load(saved)
            assert same({name: found[name] for name in first}, first)
            assert {path.name for path in folder.iterdir()} >= {data_name(1), manifest_name(1), "last.ckpt"}
        for path in (folder / data_name(2), folder / manifest_name(2)):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    assert number > (10 if failing == 0 else 3)  # the first writes all that is not divided


def _fail() -> None:
    raise OSError(5, os.strerror(5))


@pytest.mark.slow
def test_a_kill_at_any_operation(memory_path: Path, together: Together, kill_at: Callable[[int], None]) -> None:
    """Of a process alone: of several, the others would wait for it until their timeout."""
    template, folder = memory_path / "template", memory_path / "checkpoints"
    first = save(template, 1, size=1, together=together)
    seen: set[int] = set()
    for number in range(1, 300):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(template, folder, symlinks=True)

        def write(rank: int, number: int = number) -> Any:
            state = divided(2)
            store = CheckpointStore(folder, keep_last=1)
            store.group()
            kill_at(number)
            store.save_sharded(2, state, {})
            return whole(state)

        (result,) = together(1, write)
        store = CheckpointStore(folder)
        saved = store.newest()
        assert saved is not None
        found = store.load(saved)
        if isinstance(result, dict):
            break
        assert result == 77, repr(result)
        assert not (2 in seen and saved.step == 1), "there, and gone again"
        seen.add(saved.step)
        if saved.step == 1:
            assert same({name: found[name] for name in first}, first)
    assert seen == {1, 2}
    assert same({name: found[name] for name in result}, result)
    assert {path.name for path in folder.iterdir()} == {"last.ckpt", data_name(2), manifest_name(2)}
