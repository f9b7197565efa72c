"""A pack that is stopped goes on where it stopped, and ends with the same bytes as one that never was."""

import contextlib
import json
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jepa.commands import pack
from jepa.data.pack import PackConfig, Packed, pack_video
from jepa.data.source import open_source
from jepa.data.synthetic.video import encode_h264
from jepa.errors import ConfigError, DataError

RunKilled = Callable[[pack.Config, int], bool]
InChild = Callable[[Callable[[], object]], int]

COUNT = 9
BROKEN = (3, 4)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine short videos; two of them cannot be read."""
    folder = tmp_path_factory.mktemp("pack") / "videos"
    folder.mkdir()
    for number in range(COUNT):
        frames = np.random.default_rng(number).integers(0, 255, (3 + number % 2, 32, 32, 3), dtype=np.uint8)
        content = encode_h264(frames, 8)
        (folder / f"{number}.mp4").write_bytes(content[: 200 if number in BROKEN else None])
    return folder


def config(videos: Path, out: Path, **options: object) -> pack.Config:
    """Shards of two samples in two splits that are mixed: 1, 3, ... are not in one piece."""
    chosen: dict[str, Any] = {"name": "same", "copy": True, "workers": 0, "shard_size": 2, "test_fraction": 0.4}
    return pack.Config(sources=(videos,), out=out, **{**chosen, **options})


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def whole(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a pack writes that nothing stops."""
    out = tmp_path_factory.mktemp("whole") / "out"
    pack.run(config(videos, out))
    files = content(out)
    assert {name.split("/")[0] for name in files} == {"train", "test", "skipped.tsv"}
    assert sum(name.endswith(".tar") for name in files) == 4
    return files


def check_stopped(out: Path, whole: dict[str, bytes]) -> None:
    """Nothing half is visible, and nothing can be trained on before all is there."""
    for name, file in (content(out) if out.exists() else {}).items():
        if not any(part.startswith(".") for part in Path(name).parts):
            assert file == whole[name], name
    if (out / ".pack/plan.json").exists():
        with pytest.raises(DataError, match="is unfinished: run the same `jepa pack` command again"):
            open_source(out)


pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


@pytest.mark.slow
def test_killed_at_every_moment(videos: Path, tmp_path: Path, whole: dict[str, bytes], run_killed: RunKilled) -> None:
    moment = 0
    while run_killed(config(videos, tmp_path / f"{moment}"), moment := moment + 1):
        out = tmp_path / f"{moment - 1}"
        check_stopped(out, whole)
        if (out / "test/manifest.json").exists() and not (out / ".pack/plan.json").exists():
            with pytest.raises(ConfigError, match=r"already holds manifest\.json"):
                pack.run(config(videos, out))
        else:
            pack.run(config(videos, out))
        assert content(out) == whole, moment
    assert moment > 80  # files, names, journal: every step of writing was one


@pytest.mark.parametrize("seed", range(3))
def test_killed_again_and_again(
    videos: Path, tmp_path: Path, whole: dict[str, bytes], seed: int, run_killed: RunKilled
) -> None:
    for moment in np.random.default_rng(seed).integers(15, 70, 4).tolist():
        if not run_killed(config(videos, tmp_path / "out"), moment):
            break
        check_stopped(tmp_path / "out", whole)
    else:
        pack.run(config(videos, tmp_path / "out"))
    assert content(tmp_path / "out") == whole


@contextlib.contextmanager
def stopped_at(count: int, error: type[BaseException] | None = KeyboardInterrupt) -> Iterator[None]:
    """Within, packing the video of this number (from 0, in this process) raises an error."""
    calls: list[Path] = []

    def interrupted(path: Path, options: PackConfig) -> Packed:
        calls.append(path)
        if error is not None and len(calls) == count + 1:
            raise error
        return pack_video(path, options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jepa.data.pack.pack_video", interrupted)
        yield


def stop(run: pack.Config, count: int = COUNT - 2) -> None:
    with stopped_at(count), pytest.raises(KeyboardInterrupt):
        pack.run(run)


def test_after_ctrl_c_only_the_rest_is_packed(
    videos: Path, tmp_path: Path, whole: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    stop(config(videos, out))
    check_stopped(out, whole)
    assert list(out.rglob("shard-*.tar"))
    assert not list(out.rglob("manifest.json"))
    for path in (out, out / "train"):
        with pytest.raises(DataError, match=f"{path} is unfinished: run the same `jepa pack`"):
            open_source(path)
    packed: list[Path] = []

    def counted(path: Path, options: PackConfig) -> Packed:
        packed.append(path)
        return pack_video(path, options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jepa.data.pack.pack_video", counted)
        pack.run(config(videos, out, json=True))
    assert content(out) == whole
    assert len(packed) < COUNT - 2
    assert not {videos / f"{number}.mp4" for number in BROKEN} & set(packed)
    facts = json.loads(capsys.readouterr().out)
    assert (facts["packed"], facts["skipped"]) == (7, 2)
    sources = [open_source(out, split) for split in ("train", "test")]
    assert facts["frames"] == sum(source.info(n).frames for source in sources for n in range(len(source)))
    assert facts["seconds"] == pytest.approx(facts["frames"] / 8)


def test_what_is_stopped_before_a_shard_is_finished_leaves_nothing(videos: Path, tmp_path: Path) -> None:
    stop(config(videos, tmp_path / "new/out"), 1)
    assert not (tmp_path / "new/out").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/note.txt").touch()
    stop(config(videos, tmp_path / "mine"), 1)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["note.txt"]


def test_other_settings_may_follow_a_kill_before_a_shard_was_finished(
    videos: Path, tmp_path: Path, run_killed: RunKilled
) -> None:
    assert run_killed(config(videos, tmp_path / "out", test_fraction=0.0), 20)
    assert (tmp_path / "out/.pack/plan.json").exists()
    pack.run(config(videos, tmp_path / "out", shard_size=3))
    pack.run(config(videos, tmp_path / "other", shard_size=3))
    assert content(tmp_path / "out") == content(tmp_path / "other")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shard_size": 3}, r"with other settings \(shard_size was 2, now 3\): finish it with the command that began"),
        ({"copy": False, "crf": 30}, r"settings \(encoder was none: the files are as they were, now \{.*'crf': 30"),
        ({"name": "other"}, "name was same, now other"),
        ({"test_fraction": 0.0}, "test_fraction was 0.4, now 0.0"),
        ({"seed": 1}, "seed was 0, now 1"),
    ],
)
def test_other_settings_are_refused(videos: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    out = tmp_path / "out"
    stop(config(videos, out))
    before = content(out)
    with pytest.raises(ConfigError, match=message) as caught:
        pack.run(config(videos, out, **options))
    assert "\n" not in str(caught.value)
    assert content(out).keys() == before.keys()


def test_other_programs_are_refused(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    stop(config(videos, out))
    monkeypatch.setattr("av.__version__", "99")
    with pytest.raises(ConfigError, match=r"versions was .*'pyav': '99'"):
        pack.run(config(videos, out))


@pytest.fixture
def own(videos: Path, tmp_path: Path) -> Path:
    """A copy of the videos that a test may change."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for file in videos.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_sources_that_changed_are_named(own: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    stop(config(own, out))
    before = (own / "5.mp4").read_bytes()
    status = (own / "5.mp4").stat()
    (own / "5.mp4").write_bytes(before[:-1])
    (own / "7.mp4").unlink()
    (own / "7.mp4").symlink_to("nowhere")
    with pytest.raises(DataError, match=f"and 2 of its videos changed since: {own}/5.mp4, {own}/7.mp4; put them back"):
        pack.run(config(own, out))
    (own / "7.mp4").unlink()
    with pytest.raises(
        ConfigError, match=f"unfinished pack of a list of 9 videos, now 8, different from {own}/8.mp4 on"
    ):
        pack.run(config(own, out))
    (own / "5.mp4").write_bytes(before)
    os.utime(own / "5.mp4", ns=(status.st_atime_ns, status.st_mtime_ns))
    (own / "7.mp4").write_bytes(before)
    with pytest.raises(DataError, match=f"and 1 of its videos changed since: {own}/7.mp4"):
        pack.run(config(own, out))


def test_other_labels_are_refused(own: Path, tmp_path: Path) -> None:
    table, out = own / "list.csv", tmp_path / "out"
    table.write_text("".join(f"{number}.mp4 {number % 2}\n" for number in range(COUNT)))
    stop(config(table, out))
    table.write_text("".join(f"{number}.mp4 {number % 3}\n" for number in range(COUNT)))
    with pytest.raises(
        ConfigError, match=rf"of another path, label, split or segment for 5 of 9 videos: {own}/2.mp4, .* and 2 more"
    ):
        pack.run(config(table, out))


@pytest.mark.parametrize("name", ["shard-000000.tar", "shard-000000.arrow"])
def test_a_finished_shard_that_changed_is_named(videos: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    stop(config(videos, out))
    file = out / "train" / name
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DataError, match=rf"train/{name} was finished and is changed now: delete the folder"):
        pack.run(config(videos, out))
    file.unlink()
    with pytest.raises(DataError, match=rf"train/{name} was finished and is gone now"):
        pack.run(config(videos, out))


def test_a_foreign_tar_is_not_taken_for_ours(videos: Path, tmp_path: Path) -> None:
    stop(config(videos, tmp_path / "out"))
    (tmp_path / "out/train/00000.tar").touch()
    with pytest.raises(ConfigError, match=r"holds 00000\.tar, which this pack did not write: move it elsewhere"):
        pack.run(config(videos, tmp_path / "out"))


def test_a_journal_that_ends_within_a_line(videos: Path, tmp_path: Path, whole: dict[str, bytes]) -> None:
    """As after a power failure, at any byte; lines behind it are of no use then."""
    stop(config(videos, tmp_path / "first"))
    journal = content(tmp_path / "first")[".pack/done.jsonl"]
    assert journal.count(b"\n") >= 3
    for number, size in enumerate(range(0, len(journal), len(journal) // 9)):
        out = tmp_path / f"out{number}"
        stop(config(videos, out))
        (out / ".pack/done.jsonl").write_bytes(journal[:size] + b"\0" * (number % 3))
        pack.run(config(videos, out))
        assert content(out) == whole


def test_a_damaged_plan_is_named(videos: Path, tmp_path: Path) -> None:
    stop(config(videos, tmp_path / "out"))
    (tmp_path / "out/.pack/plan.bin").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"the journal in .*\.pack is damaged .*: delete the folder and pack anew"):
        pack.run(config(videos, tmp_path / "out"))


def test_a_full_disk_keeps_what_is_finished(
    videos: Path, tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, real, calls = tmp_path / "out", os.fsync, []

    def full(file: int) -> None:
        calls.append(file)
        if len(calls) > 12:
            raise OSError(28, "No space left on device")
        real(file)

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(ConfigError, match=r"cannot write .*: No space left on device"):
            pack.run(config(videos, out))
    check_stopped(out, whole)
    assert list(out.rglob("shard-*.tar"))
    pack.run(config(videos, out))
    assert content(out) == whole


def test_a_file_that_grows_too_large(own: Path, tmp_path: Path, in_child: InChild) -> None:
    """The operating system itself refuses to write on, within a shard."""
    frames = np.random.default_rng(0).integers(0, 255, (16, 128, 128, 3), dtype=np.uint8)
    (own / "8.mp4").write_bytes(encode_h264(frames, 8))
    limit = (own / "8.mp4").stat().st_size
    run = config(own, tmp_path / "out", test_fraction=0.0)

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        with pytest.raises(ConfigError, match=r"cannot write .*shard-000003\.tar: File too large"):
            pack.run(run)

    assert in_child(limited) == 0
    assert len(list(run.out.glob("shard-*.tar"))) == 3
    pack.run(run)
    pack.run(config(own, tmp_path / "whole", test_fraction=0.0))
    assert content(run.out) == content(tmp_path / "whole")


def test_a_second_process_is_refused_at_once(
    videos: Path, tmp_path: Path, whole: dict[str, bytes], in_child: InChild
) -> None:
    """Also while the first one has not written anything yet; and it takes nothing away from the first."""
    out, codes = tmp_path / "out", []

    def intrude(path: Path, options: PackConfig) -> Packed:
        if len(codes) < 3:
            codes.append(in_child(second))
        return pack_video(path, options)

    def second() -> None:
        with pytest.raises(ConfigError, match=rf"process {first} on .* packs into .*out now: wait for it, or choose"):
            pack.run(config(videos, out))

    first = os.getpid()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jepa.data.pack.pack_video", intrude)
        pack.run(config(videos, out))
    assert codes == [0, 0, 0]
    assert content(out) == whole


def test_finished_is_finished(videos: Path, tmp_path: Path, whole: dict[str, bytes]) -> None:
    pack.run(config(videos, tmp_path / "out"))
    assert not (tmp_path / "out/.pack").exists()
    with pytest.raises(ConfigError, match=r"already holds manifest\.json"):
        pack.run(config(videos, tmp_path / "out"))
    assert content(tmp_path / "out") == whole


def test_segments_of_a_published_data_set_go_on(videos: Path, tmp_path: Path, run_killed: RunKilled) -> None:
    steps = [{"id": "1", "segment": [n / 8, (n + 2) / 8], "label": f"step {n}"} for n in range(3)]
    database = {
        str(number): {"class": "Cook", "subset": ("training", "testing")[number % 2], "annotation": steps}
        for number in range(4)
    }
    (tmp_path / "COIN.json").write_text(json.dumps({"database": database}))
    options = {"format": "coin-steps", "annotations": (tmp_path / "COIN.json",), "copy": False, "test_fraction": 0.0}
    pack.run(config(videos, tmp_path / "whole", preset="ultrafast", **options))
    expected = content(tmp_path / "whole")
    out = tmp_path / "out"
    assert run_killed(config(videos, out, preset="ultrafast", **options), 45)
    assert list(out.rglob("shard-*.tar"))
    pack.run(config(videos, out, preset="ultrafast", **options))
    assert content(out) == expected


@pytest.mark.slow
def test_the_number_of_workers_changes_nothing_also_when_going_on(
    videos: Path, tmp_path: Path, whole: dict[str, bytes], run_killed: RunKilled
) -> None:
    """Stopped with one number of workers, continued with another."""
    for workers, first in ((0, 0), (1, 0), (3, 0), (3, 2)):
        out = tmp_path / f"out{workers}{first}"
        assert run_killed(config(videos, out, workers=first), 45 + workers) if not first else True
        pack.run(config(videos, out, workers=workers))
        assert content(out) == whole
