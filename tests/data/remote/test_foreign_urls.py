"""Tars of others on a web server: indexed from there, and read from there afterwards."""

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jepa.cli import main
from jepa.data.foreign_tars import expand
from jepa.data.source import open_source
from jepa.data.storage import RemoteOptions
from jepa.data.synthetic.video import encode_h264


def video(number: int) -> bytes:
    ramp = np.arange(6 * 32 * 32 * 3).reshape(6, 32, 32, 3) * (number + 3) // 7
    return encode_h264((ramp % 251).astype(np.uint8), 8)


def put(path: Path, first: int) -> None:
    with tarfile.open(path, "w") as archive:
        for number in (first, first + 1):
            info = tarfile.TarInfo(f"{number}.mp4")
            info.size = len(video(number))
            archive.addfile(info, io.BytesIO(video(number)))


def test_tars_behind_a_url(
    web: Any, tmp_path: Path, fast: RemoteOptions, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JEPA_CACHE", str(tmp_path / "cache"))
    for number in range(2):
        put(web.folder / f"clips-{number + 9:02d}.tar", 2 * number)
    url, out = f"{web.url}/clips-{{09..10}}.tar", tmp_path / "mine"
    assert main(["index", url]) == 2
    assert "tars behind a URL need a folder for their index: --out DIR" in capsys.readouterr().err
    assert main(["index", url, "--out", str(out), "--workers", "0"]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["clips-09.arrow", "clips-10.arrow", "manifest.json"]
    source = open_source(out, remote=fast)
    assert [source.info(number).key for number in range(4)] == ["0", "1", "2", "3"]
    assert [source.read(number) for number in (3, 0, 2, 1)] == [video(number) for number in (3, 0, 2, 1)]
    assert main(["lint", str(out)]) == 3
    assert "is about tars behind a URL: lint a copy of them" in capsys.readouterr().err
    assert main(["index", f"{web.url}/none-{{0..1}}.tar", "--out", str(tmp_path / "other")]) == 3
    assert main(["index", f"{web.url}/clips", "--out", str(tmp_path / "other")]) == 2
    assert main(["index", url.replace("://", "://me:secret@"), "--out", str(tmp_path / "other")]) == 2
    assert "secret" not in capsys.readouterr().err


def test_numbers_in_braces() -> None:
    assert [*expand("a-{08..10}.tar")] == ["a-08.tar", "a-09.tar", "a-10.tar"]
    assert [*expand("{0..1}/{1..2}.tar")] == ["0/1.tar", "0/2.tar", "1/1.tar", "1/2.tar"]
    assert [*expand("plain.tar")] == ["plain.tar"]
