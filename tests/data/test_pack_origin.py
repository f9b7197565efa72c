"""Hashes of sources."""

import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from jepa.data import digests, pack_origin
from jepa.data.digests import file_digest
from jepa.data.lists import Entry
from jepa.data.pack import PackConfig, pack_entry
from jepa.data.pack_origin import FilmHashes, read_source
from jepa.errors import DataError


def blake(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def test_a_small_file_is_read_and_a_large_one_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"x" * 1000)
    assert read_source(tmp_path / "a") == (b"x" * 1000, blake(b"x" * 1000))
    monkeypatch.setattr(pack_origin, "IN_MEMORY", 999)
    monkeypatch.setattr(digests, "PIECE", 7)
    assert read_source(tmp_path / "a") == (tmp_path / "a", blake(b"x" * 1000))
    with pytest.raises(DataError, match=r"b: No such file or directory"):
        read_source(tmp_path / "b")


def test_films_are_hashed_once_in_any_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    films = [tmp_path / str(number) for number in range(6)]
    for film in films[:5]:
        film.write_bytes(film.name.encode() * 100)
    hashed: list[Path] = []

    def counted(path: Path, stop: object = None) -> str:
        hashed.append(path)
        return file_digest(path)

    monkeypatch.setattr(pack_origin, "file_digest", counted)
    with FilmHashes([films[0], films[0], *films]) as hashes:
        for film in (films[0], films[3], films[0], films[1], films[2], films[4], films[4]):
            assert hashes.of(film) == blake(film.name.encode() * 100)
        with pytest.raises(DataError, match="5: No such file"):
            hashes.of(films[5])
    assert sorted(hashed) == films


def test_a_folder_of_pictures_has_a_hash_of_names_and_contents(tmp_path: Path) -> None:
    config = PackConfig(preset="ultrafast")

    def packed() -> str:
        return pack_entry(Entry(tmp_path, "a", frame_rate=12.0), config).origin_hash

    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((32, 32, 3), 80 * number, np.uint8))
    contents = [(tmp_path / f"{number}.png").read_bytes() for number in range(3)]
    parts = [f"{number}.png".encode() + b"\0%d\0" % len(content) + content for number, content in enumerate(contents)]
    assert packed() == blake(b"".join(parts))
    first = packed()
    (tmp_path / "list.txt").write_text("no picture")
    assert packed() == first
    (tmp_path / "2.png").rename(tmp_path / "3.png")
    assert packed() != first
