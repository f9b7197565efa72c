"""Tars that others wrote: walked as strictly, and what cannot be checked without an index is said."""

import io
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from jepa.data.lint import Summary, lint
from jepa.data.lint_content import Checks
from jepa.data.lint_findings import Finding
from jepa.data.synthetic.video import encode_h264
from jepa.data.tar_walk import BLOCK, TarMember, walk_file
from jepa.data.windows import WindowConfig

ALL = Checks(decode=True, window=WindowConfig(4, 2), classes=frozenset({"cat", "dog"}))


def check(folder: Path, checks: Checks = ALL) -> tuple[list[Finding], Summary]:
    findings: list[Finding] = []
    return findings, lint(folder, checks, findings.append)


def video(number: int, frames: int = 8) -> bytes:
    ramp = np.arange(frames * 32 * 32 * 3).reshape(frames, 32, 32, 3) * (number + 3) // 7
    return encode_h264((ramp % 251).astype(np.uint8), 8)


def foreign(folder: Path, samples: dict[str, dict[str, bytes]], name: str = "00000.tar") -> Path:
    folder.mkdir(exist_ok=True)
    with tarfile.open(folder / name, "w", format=tarfile.GNU_FORMAT) as archive:
        for ending in sorted({ending for members in samples.values() for ending in members}):  # not sample by sample
            for key, contents in samples.items():
                if ending in contents:
                    info = tarfile.TarInfo(f"./{key}.{ending}")
                    info.size = len(contents[ending])
                    archive.addfile(info, io.BytesIO(contents[ending]))
    return folder


def image(number: int) -> bytes:
    encoded: np.ndarray = cv2.imencode(".png", np.full((16, 16, 3), number, np.uint8))[1]
    return encoded.tobytes()


def mixed() -> dict[str, dict[str, bytes]]:
    videos = {f"clips/{n:03d}": {"mp4": video(n), "cls": b"%d\n" % (n % 2)} for n in range(6)}
    images = {f"stills/{n:03d}": {"png": image(n), "cls": b"dog"} for n in range(6)}
    return {**videos, **images}


def test_whole_tars_of_others_have_no_findings_and_it_is_said_what_was_not_checked(tmp_path: Path) -> None:
    folder = foreign(tmp_path / "f", mixed())
    foreign(folder, mixed(), "00001.tar")  # keys are unique in a tar only
    findings, summary = check(folder)
    assert findings == []
    assert (summary.shards, summary.samples) == (2, 24)
    assert summary.unchecked == ("checksums, counts, keys in two shards: 2 of 2 shards have no index",)
    _, summary = check(folder, Checks(window=WindowConfig(4, 2)))
    assert "lengths (--decode finds them)" in summary.unchecked[0]
    assert check(folder / "00001.tar")[1].samples == 12


def test_damage_in_tars_of_others(tmp_path: Path) -> None:
    samples = mixed()
    samples["clips/001"]["mp4"] = video(1, frames=5)
    samples["clips/002"]["cls"] = b"2"
    del samples["clips/003"]["mp4"]
    del samples["stills/001"]["cls"]
    samples["stills/004"]["png"] = image(4)[:50]
    half = bytearray(video(5))
    half[-600:-300] = bytes(300)
    samples["clips/005"]["mp4"] = bytes(half)
    findings, _ = check(foreign(tmp_path / "f", samples))
    assert {(finding.kind, finding.key) for finding in findings} == {
        ("too-short", "clips/001"), ("label", "clips/002"), ("missing-member", "clips/003"),
        ("missing-member", "stills/001"), ("label", "stills/001"), ("undecodable", "stills/004"),
        ("undecodable", "clips/005"),
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["cut-at-member", "cut-header", "cut-data", "corrupt-header", "zeroed-header"])
def test_tars_of_others_are_walked_as_strictly(tmp_path: Path, kind: str) -> None:
    tar = foreign(tmp_path / "f", mixed()) / "00000.tar"
    places = {one.name: one.offset for one in walk_file(tar) if isinstance(one, TarMember)}
    place = places["./clips/003.mp4"] - BLOCK
    data = tar.read_bytes()
    tar.write_bytes(
        {
            "cut-at-member": data[:place],
            "cut-header": data[: place + 100],
            "cut-data": data[: place + BLOCK + 100],
            "corrupt-header": data[:place] + b"?" + data[place + 1 :],
            "zeroed-header": data[:place] + bytes(BLOCK) + data[place + BLOCK :],
        }[kind]
    )
    findings, _ = check(tmp_path / "f", Checks())
    assert [finding.offset for finding in findings if finding.kind == kind] == [place]
