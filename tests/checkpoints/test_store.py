"""The folder of checkpoints: what is written comes back, what is old goes, what is damaged is passed over."""

import hashlib
import json
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from jepa.checkpoints.digested import FileDigest
from jepa.checkpoints.manifest import data_name, manifest_name
from jepa.checkpoints.read import checkpoint_digest, read_checkpoint, read_facts
from jepa.checkpoints.store import CheckpointStore, Saved
from jepa.errors import ConfigError, DataError

FACTS = {"fingerprint": "f00", "init": None, "world_size": 1}


def state(value: float) -> dict[str, Any]:
    weights = {"a": torch.full((30, 40), value), "b": torch.arange(7).double() + value, "h": torch.ones(3).bfloat16()}
    moments = {"a": {"step": torch.tensor(value), "exp_avg": torch.full((30, 40), value / 3)}}
    return {"state_dict": weights, "optimizer": {"state": moments}, "callbacks": {"rows": {"count": 3, "sums": {}}}}


def same(one: Any, other: Any) -> bool:
    """Bit for bit, dtypes included."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    return bool(one == other)


def store_of(path: Path, *steps: int, **options: Any) -> CheckpointStore:
    store = CheckpointStore(path / "checkpoints", **options)
    for step in steps:
        store.save(step, state(step), FACTS)
    return store


def names(store: CheckpointStore) -> list[str]:
    return sorted(path.name for path in store.folder.iterdir())


def expected(*steps: int) -> list[str]:
    return sorted(["last.ckpt", *(name(step) for step in steps for name in (data_name, manifest_name))])


def newest(store: CheckpointStore) -> Saved:
    saved = store.newest()
    assert saved is not None
    return saved


def test_a_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "deep" / "checkpoints")
    assert store.newest() is None
    assert store.steps() == []
    saved = store.save(500, state(1.5), FACTS)
    facts = {**FACTS, "format_version": 2, "step": 500}
    assert saved == newest(store) == Saved.at(saved.path) == Saved.at(store.folder / "last.ckpt")
    assert (saved.step, saved.path.name, saved.facts) == (500, "step-000000500.ckpt", facts)
    assert saved.bytes == saved.path.stat().st_size
    for path in (saved.path, store.folder / "last.ckpt"):
        for lazy in (False, True):
            assert same(read_checkpoint(path, lazy=lazy), {**state(1.5), "jepa": facts})
        assert read_facts(path) == facts
    assert same(store.load(saved), {**state(1.5), "jepa": facts})
    assert str((store.folder / "last.ckpt").readlink()) == "step-000000500.ckpt"  # so that the folder may be moved


def test_the_manifest_tells_size_and_digest_of_what_lies_there(tmp_path: Path) -> None:
    saved = newest(store_of(tmp_path, 3))
    content = json.loads((saved.path.parent / "step-000000003.json").read_text())
    digest = hashlib.blake2b(saved.path.read_bytes(), digest_size=16).hexdigest()
    assert content["files"] == [{"name": saved.path.name, "bytes": saved.path.stat().st_size, "blake2b": digest}]
    assert (content["format_version"], content["step"], content["facts"]) == (2, 3, saved.facts)


def test_pieces_that_are_hashed_beside_the_writing_have_the_same_digest(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    big = {"state_dict": {"w": torch.randn(3, 1 << 19), "v": torch.randn(5)}}
    store.save(1, big, {})
    assert same(store.load(newest(store))["state_dict"], big["state_dict"])


def test_facts_are_read_without_the_weights(tmp_path: Path) -> None:
    saved = newest(store_of(tmp_path, 3))
    saved.path.write_bytes(b"")
    assert read_facts(saved.path)["step"] == 3


def test_a_copy_without_manifest_is_read_all_the_same(tmp_path: Path) -> None:
    saved = newest(store_of(tmp_path, 3))
    copy = tmp_path / "copy.ckpt"
    copy.write_bytes(saved.path.read_bytes())
    assert read_facts(copy) == saved.facts
    assert same(read_checkpoint(copy)["state_dict"], state(3)["state_dict"])
    assert (
        checkpoint_digest(copy) == checkpoint_digest(saved.path) == checkpoint_digest(saved.path.parent / "last.ckpt")
    )
    copy.write_bytes(saved.path.read_bytes()[:-1])
    assert checkpoint_digest(copy) != checkpoint_digest(saved.path)


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"keep_last": 1}, [7]),
        ({}, [6, 7]),
        ({"keep_last": 3}, [5, 6, 7]),
        ({"keep_last": 9}, [1, 2, 3, 4, 5, 6, 7]),
        ({"keep_last": 1, "keep_every": 3}, [3, 6, 7]),
        ({"keep_last": 2, "keep_every": 2}, [2, 4, 6, 7]),
    ],
)
def test_old_ones_go(tmp_path: Path, options: dict[str, Any], kept: list[int]) -> None:
    store = store_of(tmp_path, 1, 2, 3, 4, 5, 6, 7, **options)
    assert store.steps() == kept
    assert names(store) == expected(*kept)


def test_a_whole_one_of_the_same_step_is_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = store_of(tmp_path, 3)
    before = newest(store).path.stat()
    with caplog.at_level(logging.INFO):
        assert store.save(3, state(99), {}) == newest(store)
    assert "step 3 is there already and whole" in caplog.text
    assert (before.st_ino, before.st_mtime_ns) == ((now := newest(store).path.stat()).st_ino, now.st_mtime_ns)
    assert same(store.load(newest(store))["state_dict"], state(3)["state_dict"])


def test_a_damaged_one_of_the_same_step_is_written_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = store_of(tmp_path, 3, 4)
    flip(store.folder / data_name(4))
    store.save(4, state(4), FACTS)
    assert "writing the checkpoint of step 4 anew: step-000000004.ckpt has another digest" in caplog.text
    assert newest(store).step == 4
    assert names(store) == expected(3, 4)


def flip(path: Path, at: float = 0.5) -> None:
    content = bytearray(path.read_bytes())
    content[int(at * (len(content) - 1))] ^= 1
    path.write_bytes(content)


def test_what_was_not_compared_is_compared_when_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CheckpointStore(tmp_path)
    saved = store.save(3, state(3), {})
    found = newest(store)
    flip(saved.path, 0.3)
    for read in (
        lambda: store.load(Saved.at(saved.path)),
        lambda: read_checkpoint(tmp_path / "last.ckpt", lazy=True),
        lambda: checkpoint_digest(tmp_path / "last.ckpt", whole=True),
    ):
        with pytest.raises(DataError, match=r"has another digest\): restore it"):
            read()
    flip(saved.path, 0.3)
    assert checkpoint_digest(saved.path, whole=True) == checkpoint_digest(saved.path)
    monkeypatch.setattr(FileDigest, "of", lambda path: pytest.fail("read twice"))
    assert same(store.load(found)["state_dict"], state(3)["state_dict"])


def test_with_a_manifest_of_something_else_nothing_is_read(tmp_path: Path) -> None:
    saved = CheckpointStore(tmp_path).save(3, state(3), {})
    manifest = saved.path.with_suffix(".json")
    manifest.write_text(manifest.read_text().replace('"step": 3', '"step": 4'))
    with pytest.raises(DataError, match="manifest"):
        read_checkpoint(saved.path)
    manifest.unlink()
    assert same(read_checkpoint(saved.path)["state_dict"], state(3)["state_dict"])  # a copy of the data alone


def cut(path: Path, share: float) -> None:
    os.truncate(path, int(share * path.stat().st_size))


def of_another_step(path: Path) -> None:
    path.write_bytes(path.with_name(manifest_name(1)).read_bytes())


DAMAGE: dict[str, tuple[str, Callable[[Path], object], str]] = {
    **{f"data cut to {share}": ("ckpt", lambda path, s=share: cut(path, s), r"bytes, not") for share in (0, 0.1, 0.9)},
    "data cut by a byte": ("ckpt", lambda path: os.truncate(path, path.stat().st_size - 1), r"bytes, not"),
    "data too long": ("ckpt", lambda path: path.write_bytes(path.read_bytes() + b"\0"), r"bytes, not"),
    **{
        f"data flipped at {at}": ("ckpt", lambda path, a=at: flip(path, a), "another digest") for at in (0, 0.3, 0.7, 1)
    },
    "manifest missing": ("json", Path.unlink, "is missing"),
    "manifest empty": ("json", lambda path: cut(path, 0), "is damaged"),
    "manifest cut": ("json", lambda path: cut(path, 0.6), "is damaged"),
    **{
        f"manifest flipped at {at}": ("json", lambda path, a=at: flip(path, a), "manifest") for at in (0, 0.2, 0.5, 0.9)
    },
    "manifest of another step": ("json", of_another_step, "of another checkpoint, of step 1"),
    "manifest no object": ("json", lambda path: path.write_text("[1, 2]"), "is damaged"),
    "manifest binary": ("json", lambda path: path.write_bytes(b"\xff\0\xfe"), "is damaged"),
    "manifest deep": ("json", lambda path: path.write_text("[" * 100_000), "is damaged"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_newest_one_is_passed_over_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    store = store_of(tmp_path, 1, 2)
    kind, spoil, reason = DAMAGE[damage]
    spoil(store.folder / f"step-000000002.{kind}")
    saved = newest(store)
    assert saved.step == 1
    assert same(store.load(saved)["state_dict"], state(1)["state_dict"])
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.message.startswith("the checkpoint of step 2 cannot be used, that of step 1 is: ")
    assert re.search(reason, record.message)
    assert "\n" not in record.message
    # The run goes on from there, and the damaged one goes.
    store.save(1, state(1), FACTS)
    assert (store.folder / "last.ckpt").readlink().name == data_name(1)
    assert names(store) == expected(1)


def test_two_damaged_ones_are_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = store_of(tmp_path, 1, 2, 3, keep_last=3)
    flip(store.folder / data_name(3))
    (store.folder / manifest_name(2)).unlink()
    assert newest(store).step == 1
    assert [record.message.split(" cannot")[0] for record in caplog.records] == [
        "the checkpoint of step 3", "the checkpoint of step 2"
    ]  # fmt: skip


def test_if_none_can_be_used_that_is_said(tmp_path: Path) -> None:
    store = store_of(tmp_path, 1, 2)
    flip(store.folder / data_name(1))
    cut(store.folder / data_name(2), 0.5)
    with pytest.raises(DataError, match=r"2 checkpoints and none can be used \(of step 2: .* bytes, not .*; restore"):
        store.newest()


def test_going_on_before_a_damaged_one_keeps_what_is_new(tmp_path: Path) -> None:
    """Saves at 2, 4, 6; 6 and 4 are damaged; the run goes on from 2 and saves 3: neither 2 nor 3 may go for 4 and 6."""
    store = store_of(tmp_path, 2, 4, 6, keep_last=3)
    store.keep_last = 2
    for step in (4, 6):
        flip(store.folder / data_name(step))
    assert newest(store).step == 2
    store.save(3, state(3), FACTS)
    assert newest(store).step == 3
    assert names(store) == expected(2, 3)


def test_a_whole_newer_one_stays_the_newest(tmp_path: Path) -> None:
    store = store_of(tmp_path, 6, keep_last=1)
    for step in (2, 3):
        store.save(step, state(step), FACTS)
    assert store.steps() == [3, 6]
    assert newest(store).step == 6
    assert (store.folder / "last.ckpt").readlink().name == data_name(6)


def test_what_was_left_by_a_kill_is_removed(tmp_path: Path) -> None:
    store = store_of(tmp_path, 1)
    for name in (".step-000000002.ckpt.tmp", ".step-000000001.ckpt.old", ".step-000000009.json.tmp", ".last.ckpt.tmp"):
        (store.folder / name).write_bytes(b"left")
    (store.folder / ".step-000000003.ckpt.tmp").mkdir()
    (store.folder / ".step-000000003.ckpt.tmp" / "__0_0.distcp").write_bytes(b"left")
    (store.folder / manifest_name(7)).write_bytes((store.folder / manifest_name(1)).read_bytes())
    assert store.newest() is not None
    store.save(2, state(2), FACTS)
    assert names(store) == expected(1, 2)


def test_foreign_files_stay_and_do_not_disturb(tmp_path: Path) -> None:
    store = store_of(tmp_path, 1)
    foreign = ["notes.txt", "step-5.ckpt", "step-000000005.ckpt.bak", "my-000000009.json", ".nfs0001", "best.ckpt"]
    for name in foreign:
        (store.folder / name).write_bytes(b"mine")
    (store.folder / "folder.ckpt").mkdir()
    store.save(2, state(2), FACTS)
    assert newest(store).step == 2
    assert names(store) == sorted([*expected(1, 2), *foreign, "folder.ckpt"])


def test_a_dangling_link_is_told_and_replaced(tmp_path: Path) -> None:
    store = store_of(tmp_path, 1)
    last = store.folder / "last.ckpt"
    last.unlink()
    last.symlink_to("step-000000999.ckpt")
    with pytest.raises(DataError, match=r"last\.ckpt points to step-000000999\.ckpt, which is gone"):
        read_checkpoint(last)
    assert newest(store).step == 1
    store.save(2, state(2), FACTS)
    assert read_facts(last)["step"] == 2


def test_the_single_file_of_format_1_is_refused_and_not_replaced(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    old = {"global_step": 3, "jepa": {"format_version": 1, "position": 12, "fingerprint": "f00"}}
    torch.save(old, tmp_path / "last.ckpt")
    told = r"has format version 1, this package reads 2: continue with the version .* that wrote it, or start another"
    for read in (
        store.newest,
        lambda: read_checkpoint(tmp_path / "last.ckpt"),
        lambda: read_facts(tmp_path / "last.ckpt"),
    ):
        with pytest.raises(DataError, match=told):
            read()
    with pytest.raises(ConfigError, match=r"cannot write .*last\.ckpt: what lies there is no link"):
        store.save(4, state(4), FACTS)
    assert names(store) == ["last.ckpt"]


def test_a_later_format_is_refused_and_not_removed(tmp_path: Path) -> None:
    from jepa.checkpoints import manifest

    store = store_of(tmp_path, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest, "FORMAT_VERSION", 3)
        store.save(2, state(2), FACTS)
    with pytest.raises(DataError, match="has format version 3, this package reads 2"):
        store.newest()
    store.save(3, state(3), FACTS)
    store.save(4, state(4), FACTS)
    assert data_name(2) in names(store)


def test_a_folder_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").touch()
    store = CheckpointStore(tmp_path / "checkpoints")
    assert store.newest() is None
    with pytest.raises(ConfigError, match=r"cannot write .*step-000000001\.ckpt: part of the path is a file"):
        store.save(1, state(1), FACTS)


def test_a_folder_in_the_place_of_a_file_is_damage(tmp_path: Path) -> None:
    store = store_of(tmp_path, 1, 2)
    (store.folder / data_name(2)).unlink()
    (store.folder / data_name(2)).mkdir()
    assert newest(store).step == 1
    store.save(2, state(2), FACTS)
    assert newest(store).step == 2


def test_a_file_system_without_links_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "symlink", refuse)
    store = store_of(tmp_path, 1)
    assert newest(store).step == 1
    assert "has no symbolic links" in caplog.text


def test_what_is_no_checkpoint_of_this_package_is_refused(tmp_path: Path) -> None:
    for content in ({}, {"jepa": 3}, {"jepa": {"format_version": 2}}, {"jepa": {"step": 3}}):
        torch.save(content, tmp_path / "odd.ckpt")
        with pytest.raises(DataError, match="is no checkpoint of this package"):
            read_checkpoint(tmp_path / "odd.ckpt")
    with pytest.raises(DataError, match="no checkpoint at"):
        read_checkpoint(tmp_path / "absent.ckpt")
    (tmp_path / "empty.ckpt").mkdir()
    with pytest.raises(DataError, match="no checkpoint at"):
        read_checkpoint(tmp_path / "empty.ckpt")


def test_what_a_kill_after_the_commit_has_left_undone_is_done(tmp_path: Path) -> None:
    store = store_of(tmp_path, 1, 2, keep_last=2)
    (store.folder / "last.ckpt").unlink()
    (store.folder / "last.ckpt").symlink_to(data_name(1))
    (store.folder / ".last.ckpt.tmp").symlink_to(data_name(2))
    store.keep_last = 1
    store.tidy(newest(store))
    assert names(store) == expected(2)
    assert read_facts(store.folder / "last.ckpt")["step"] == 2
