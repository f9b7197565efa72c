"""Shards: plain webdataset reads them, they are random-access, and no damage goes unnoticed."""

import json
import multiprocessing
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jepa.data.decode import VideoInfo
from jepa.data.digests import file_digest
from jepa.data.index import write_rows
from jepa.data.rows import IndexNotes, Member, Row, open_rows
from jepa.data.shard_writer import ShardWriter
from jepa.data.shards import ShardSource
from jepa.errors import ConfigError, DataError

COUNT = 7
INFO = VideoInfo(frames=16, fps=12.5, height=40, width=48, duration=1.28, codec="h264", keyframes=(0, 8))


def video(number: int) -> bytes:
    """Stands for an encoded video; shards do not look inside."""
    return np.random.default_rng(number).bytes(2000 + 100 * number)


def write(folder: Path, *, name: str = "tiny", change: bytes = b"", **options: object) -> ShardSource:
    with ShardWriter(folder, name=name, samples_per_shard=3, provenance={"by": "test"}, **options) as writer:
        for number in range(COUNT):
            labels = {"motion": f"m{number % 2}", "bodies": number} | ({"rare": 0.5} if number == 4 else {})
            extra = {"masks.npz": bytes([number] * 50)} if number != 5 else {}
            writer.write(f"{number:06d}", video(number) + change, INFO, labels, extra, origin=f"/videos/ü {number}.mp4")
    return ShardSource(folder)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    source = write(tmp_path / "shards")
    assert (len(source), source.name) == (COUNT, "tiny")
    for number in np.random.default_rng(0).permutation(COUNT).tolist():
        info = source.info(number)
        assert (info.key, info.frames, info.fps, info.height, info.width) == (f"{number:06d}", 16, 12.5, 40, 48)
        assert info.labels["motion"] == f"m{number % 2}"
        assert info.labels["bodies"] == number
        assert info.origin == f"/videos/ü {number}.mp4"
        assert source.read(number) == video(number)
    assert source.extra(2, "masks.npz") == bytes([2] * 50)
    with pytest.raises(KeyError):
        source.extra(5, "masks.npz")
    with pytest.raises(IndexError):
        source.info(COUNT)
    assert source.manifest.label_names == ("bodies", "motion")  # every sample has these
    assert source.manifest.provenance == {"by": "test"}
    assert [shard.count for shard in source.manifest.shards] == [3, 3, 1]


def test_plain_webdataset_reads_the_shards(tmp_path: Path) -> None:
    from webdataset.tariterators import group_by_keys, tar_file_expander

    write(tmp_path)
    samples = []
    for path in sorted(tmp_path.glob("*.tar")):
        with path.open("rb") as stream:
            samples += group_by_keys(tar_file_expander([{"url": str(path), "stream": stream}]))
    assert [sample["__key__"] for sample in samples] == [f"{number:06d}" for number in range(COUNT)]
    assert [sample["mp4"] for sample in samples] == [video(number) for number in range(COUNT)]
    described = json.loads(samples[4]["json"])
    assert described["labels"] == {"motion": "m0", "bodies": 4, "rare": 0.5}


def test_shards_are_reproducible_and_the_fingerprint_follows_the_content(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a"), write(tmp_path / "b")
    assert (tmp_path / "a/shard-000001.tar").read_bytes() == (tmp_path / "b/shard-000001.tar").read_bytes()
    assert first.fingerprint == second.fingerprint
    assert write(tmp_path / "c", change=b"!").fingerprint != first.fingerprint


def test_shards_are_limited_in_bytes(tmp_path: Path) -> None:
    source = write(tmp_path, bytes_per_shard=4800)  # two of the smaller videos, one of the larger
    assert [shard.count for shard in source.manifest.shards] == [2, 2, 1, 1, 1]
    assert [source.read(number) for number in range(COUNT)] == [video(number) for number in range(COUNT)]


def read_all(source: ShardSource) -> list[int]:
    return [len(source.read(number)) for number in range(COUNT)]


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_an_open_source_travels_to_other_processes(tmp_path: Path, method: str) -> None:
    source = write(tmp_path)
    expected = read_all(source)  # files and indices are open now
    assert read_all(pickle.loads(pickle.dumps(source))) == expected
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply(read_all, (source,)) == expected


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="this system does not list open files")
def test_few_files_stay_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jepa.data.shards.OPEN_INDICES", 2)
    monkeypatch.setattr("jepa.data.storage.OPEN_FILES", 2)
    source, before = write(tmp_path), open_files()
    for number in (0, 3, 6, 1, 4, 6, 0):
        assert source.read(number) == video(number)
        assert source.info(number).key == f"{number:06d}"
    assert open_files() - before <= 4  # two tars, two indices


@given(st.data())
def test_an_index_gives_the_rows_that_were_written(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Also those with empty lists, long times and any text."""
    text = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
    numbers = st.lists(st.integers(0, 2**31 - 1), max_size=4).map(tuple)
    members = st.builds(Member, text, st.integers(0, 2**62), st.integers(0, 2**62), st.integers(0, 2**32 - 1))
    labels = st.dictionaries(text, st.one_of(text, st.integers(-9, 9), st.floats(-1, 1)), max_size=2)
    small = st.integers(0, 2**31 - 1)
    row = st.builds(
        Row, text, members, small, st.floats(0, 99), small, small, text, numbers, labels, text,
        st.lists(members, max_size=2).map(tuple), numbers, st.booleans(), text,
    )  # fmt: skip
    rows = data.draw(st.lists(row, max_size=4))
    notes = data.draw(st.one_of(st.none(), st.builds(IndexNotes, text, st.just((("a", "b"),)))))
    path = tmp_path_factory.mktemp("index") / "a.arrow"
    write_rows(path, rows, notes)
    found = open_rows(path, file_digest(path))
    assert [found.row(number) for number in range(len(found))] == rows
    assert found.notes == (notes or IndexNotes())
    places = [member.offset for row in rows for member in (row.video, *row.extras)]
    assert found.last_content() == max(places, default=None)
    for number, one in enumerate(rows):
        info = found.info(number)
        assert (info.key, info.times, info.labels) == (found.notes.prefix + one.key, one.times, one.labels)


def test_an_index_with_holes_is_refused(tmp_path: Path) -> None:
    """Nothing writes one, but Arrow would read it."""
    source = write(tmp_path)
    path = tmp_path / "shard-000001.arrow"
    table = pa.ipc.open_file(path.read_bytes()).read_all()
    holes = pa.array([None] * 3, pa.string())
    for name in ("key", "labels"):
        damaged = table.set_column(table.schema.get_field_index(name), name, holes)
        with path.open("wb") as stream, pa.ipc.new_file(stream, damaged.schema) as writer:
            writer.write_table(damaged)
        with pytest.raises(DataError, match=r"shard-000001\.arrow is damaged: a column has holes"):
            open_rows(path)
    with pytest.raises(DataError, match=r"shard-000001\.arrow is damaged or another one"):
        source.info(3)


def cut(file: Path) -> None:
    """Drop the last sample and the padding: a valid, shorter tar (which webdataset reads without complaint)."""
    with tarfile.open(file) as archive:
        last = archive.getmembers()[-2]
    file.write_bytes(file.read_bytes()[: last.offset])


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[data.index(video(4)[:50]) + 1000] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, r"shard .*shard-000001\.tar has \d+ bytes, manifest\.json says 30720: it is cut off"),
        (Path.unlink, r"shard .*shard-000001\.tar: No such file"),
        (lambda file: file.write_bytes(file.read_bytes() + b"x"), "it is changed"),
        (lambda file: file.with_suffix(".arrow").unlink(), r"shard-000001\.arrow: No such file"),
        (lambda file: file.with_suffix(".arrow").write_bytes(b"x"), r"shard-000001\.arrow has 1 bytes"),
        (lambda file: (file.parent / "manifest.json").write_text("{}"), "is not a manifest"),
        (lambda file: (file.parent / "manifest.json").write_text('{"format_version": 99}'), "format version 99"),
        (
            lambda file: (file.parent / "manifest.json").write_text('{"format_version": 1}'),
            r"version 1; this program reads 2: run `jepa index` on the folder, which keeps the tars, or pack",
        ),
    ],
)
def test_damage_is_named_when_the_source_is_opened(tmp_path: Path, damage: object, message: str) -> None:
    write(tmp_path)
    assert callable(damage)
    damage(tmp_path / "shard-000001.tar")
    with pytest.raises(DataError, match=message):
        ShardSource(tmp_path)


def test_a_flipped_bit_is_named_when_it_is_read(tmp_path: Path) -> None:
    source = write(tmp_path)
    flip(tmp_path / "shard-000001.tar")
    assert source.read(3) == video(3)
    with pytest.raises(DataError, match=r"shard-000001\.tar, sample 000004: mp4 is damaged"):
        source.read(4)


def test_a_shard_that_shrinks_later_is_named_when_it_is_read(tmp_path: Path) -> None:
    source = write(tmp_path)
    cut(tmp_path / "shard-000001.tar")
    with pytest.raises(DataError, match=r"shard-000001\.tar, sample 000005"):
        source.read(5)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_stopped_writer_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def stopped() -> None:
        with ShardWriter(tmp_path / "new/shards", name="x", samples_per_shard=2) as writer:
            for number in range(3):
                writer.write(f"{number}", video(number), INFO, {})
            assert (tmp_path / "new/shards/shard-000000.tar").exists()
            raise error

    with pytest.raises(error):
        stopped()
    assert not (tmp_path / "new/shards").exists()


def test_a_full_disk_is_a_config_error_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ConfigError, match=r"shard-000000\.tar: No space left on device"):
        write(tmp_path / "shards")
    assert not (tmp_path / "shards").exists()


def test_a_killed_writer_leaves_no_data_set(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, name="x", samples_per_shard=2)
    for number in range(3):
        writer.write(f"{number}", video(number), INFO, {})
    with pytest.raises(DataError, match=r"manifest\.json: No such file"):
        ShardSource(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*.tar")) == ["shard-000000.tar"]
    writer.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)


def test_shards_are_never_written_over(tmp_path: Path) -> None:
    write(tmp_path)
    before = (tmp_path / "manifest.json").read_bytes()
    with pytest.raises(ConfigError, match="already holds"):
        ShardWriter(tmp_path, name="other")
    assert (tmp_path / "manifest.json").read_bytes() == before
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/00000.tar").touch()
    with pytest.raises(ConfigError, match=r"already holds 00000\.tar"):
        ShardWriter(tmp_path / "foreign", name="other")


def test_a_second_writer_gives_way_and_deletes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    late = ShardWriter(folder, name="late")
    source = write(folder)
    with pytest.raises(ConfigError, match=r"shard-000000\.tar is there already: another process writes here"), late:
        late.write("0", video(0), INFO, {})
    assert [source.read(number) for number in range(COUNT)] == [video(number) for number in range(COUNT)]
    assert len(ShardSource(folder)) == COUNT


@pytest.mark.parametrize("name", ["shard-000001.tar", "shard-000001.arrow"])
def test_a_shard_that_appears_meanwhile_is_kept(tmp_path: Path, name: str) -> None:
    writer = ShardWriter(tmp_path, name="x", samples_per_shard=2)
    for number in range(3):
        writer.write(f"{number}", video(number), INFO, {})
    (tmp_path / name).write_text("of another process")
    with pytest.raises(ConfigError, match=rf"{name} is there already: another process"):
        writer.__exit__(None, None, None)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: "of another process"}


def test_a_folder_that_cannot_be_made_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot write to the folder"):
        ShardWriter(tmp_path / "file/shards", name="x")


@pytest.mark.parametrize("key", ["", "a.b", "../a", "a/b", "twice"])
def test_keys_that_a_tar_cannot_keep_apart_are_refused(tmp_path: Path, key: str) -> None:
    with ShardWriter(tmp_path / "x", name="x") as writer:
        writer.write("twice", b"0", INFO, {})
        with pytest.raises(ValueError, match="expected a new one"):
            writer.write(key, b"1", INFO, {})


def test_no_samples_are_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no samples"), ShardWriter(tmp_path / "x", name="x"):
        pass
    assert not (tmp_path / "x").exists()
