"""Where `jepa convert` writes: two at the same time, what a kill leaves behind, links, full disks."""

import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import jepa
from jepa.checkpoints import convert as module
from jepa.checkpoints.convert import convert
from jepa.checkpoints.folder import save_folder
from jepa.cli import main
from jepa.errors import ConfigError
from jepa.models.build import ModelConfig, build_jepa

CLIPS = torch.randn(1, 3, 4, 16, 16)
TARGETS = [("jepa", "out"), ("huggingface", "out"), ("official", "out.pt")]


def made(folder: Path) -> Path:
    model = build_jepa(ModelConfig(size="nano", patch=8, rope="tiled"), frames=4, size=16)
    return save_folder(folder, model, facts={"evaluate": "target"})


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return made(tmp_path / "source")


@pytest.fixture
def while_writing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """`while_writing(action)`: run it once, in the middle of the next conversion."""

    def install(action: Callable[[], object]) -> None:
        actions = [action]

        def wrapped(real: Callable[..., None]) -> Callable[..., None]:
            def write(*arguments: Any, **options: Any) -> None:
                real(*arguments, **options)
                if actions:
                    actions.pop()()

            return write

        monkeypatch.setattr(module, "save_file", wrapped(module.save_file))
        monkeypatch.setattr(module.torch, "save", wrapped(module.torch.save))

    return install


@pytest.mark.parametrize(("to", "name"), TARGETS)
@pytest.mark.parametrize("earlier", [False, True])
def test_what_was_reported_as_written_stays(
    source: Path, tmp_path: Path, while_writing: Any, to: Any, name: str, earlier: bool
) -> None:
    """The one that ends second says so in one line, and takes nothing away."""
    out, other = tmp_path / name, made(tmp_path / "other")
    if earlier:
        convert(source, out, to)
    while_writing(lambda: convert(other, out, to))
    with pytest.raises(ConfigError, match="was written by another process in the meantime") as caught:
        convert(source, out, to)
    assert "\n" not in str(caught.value)
    hints = {"heads": 3} if to == "official" else {}
    assert torch.equal(jepa.load_encoder(out, **hints)(CLIPS), jepa.load_encoder(other)(CLIPS))  # type: ignore[arg-type]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "other", "source"])


def test_what_a_kill_leaves_behind_is_removed(source: Path, tmp_path: Path, while_writing: Any) -> None:
    """A working folder whose process is gone; and one whose process lives stays."""
    out = tmp_path / "out"

    def abandon() -> None:
        (work,) = tmp_path.glob(".out.*")
        shutil.copytree(work, work.with_name(f"{work.name}x"))
        convert(source, tmp_path / "another", "jepa")
        with pytest.raises(ConfigError):
            convert(source, out, "official")  # refused, but has looked at what lies there
        assert list(tmp_path.glob(".out.*")) == [work]

    while_writing(abandon)
    convert(source, out, "jepa")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["another", "out", "source"]


def test_what_stood_there_before_a_kill_comes_back(source: Path, tmp_path: Path) -> None:
    """Killed between the two renames: the earlier output lies in the working folder, and nothing at its place."""
    out, remains = tmp_path / "out", tmp_path / ".out.jepa-convert-abcdefgh"
    convert(source, out, "jepa")
    remains.mkdir()
    out.rename(remains / "old")
    with pytest.raises(ConfigError, match=r"let .* end in"):
        convert(source, out, "official")
    assert not remains.exists()
    assert jepa.load_encoder(out).width == 96


@pytest.fixture
def small_disk() -> Iterator[None]:
    """Files end at 100 kB, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(("to", "name"), TARGETS)
@pytest.mark.usefixtures("small_disk")
def test_a_full_disk(tmp_path: Path, to: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "source"
    shutil.copytree(Path(module.__file__).parent / "shipped" / "jepa-nano", source, copy_function=_link)
    config = source / "config.json"
    text = config.read_text().replace('"interleaved"', '"tiled"')
    config.unlink()
    config.write_text(text)
    assert main(["convert", str(source), str(tmp_path / name), "--to", to]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"cannot write {tmp_path / name}: " in line
    assert "free space or choose another place" in line
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def _link(source: str, target: str) -> None:
    Path(target).symlink_to(source)


@pytest.mark.parametrize(("to", "name"), TARGETS)
def test_a_link_stays_a_link(source: Path, tmp_path: Path, to: Any, name: str) -> None:
    (tmp_path / "disk").mkdir()
    link, real = tmp_path / f"link-{name}", tmp_path / "disk" / name
    link.symlink_to(real)
    for _ in range(3):
        convert(source, link, to)
        assert link.is_symlink()
        assert [path.name for path in (tmp_path / "disk").iterdir()] == [name]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", link.name, "source"]


def test_a_link_to_itself(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    link = tmp_path / "link"
    link.symlink_to(link)
    assert main(["convert", str(source), str(link), "--to", "jepa"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "choose another place" in line
