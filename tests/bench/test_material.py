from pathlib import Path

import cv2
import numpy as np
import pytest

from jepa.bench.bare import bare_decoders
from jepa.bench.data import describe
from jepa.bench.loaders import Work, batches, drawn_clips
from jepa.bench.material import PACKED, UNPACKED, FilmConfig, make_films, prepare
from jepa.data.decode import decode
from jepa.data.timeline import probe
from jepa.data.windows import WindowConfig
from jepa.errors import DataError

FILMS = FilmConfig(count=3, frames=24, height=64, width=96, rate=12)
WORK = Work(WindowConfig(4, 2), 32, batch=2, skip=1, steps=3, seed=5)


@pytest.fixture
def films(tmp_path: Path) -> tuple[Path, ...]:
    return make_films(tmp_path / "films", FILMS, seed=1)


def test_films_are_as_long_and_large_as_asked_and_functions_of_the_seed(
    films: tuple[Path, ...], tmp_path: Path
) -> None:
    for film in films:
        info = probe(film)
        assert (info.frames, info.height, info.width, info.fps, info.codec) == (24, 64, 96, 12.0, "h264")
        assert info.keyframes == (0,)
        assert info.exact
    again = make_films(tmp_path / "again", FILMS, seed=1)
    assert [film.read_bytes() for film in again] == [film.read_bytes() for film in films]
    assert len({film.read_bytes() for film in (*films, *make_films(tmp_path / "other", FILMS, seed=2))}) == 6


def test_films_move_and_have_detail(films: tuple[Path, ...]) -> None:
    frames = decode(films[0], range(24)).astype(float)
    steps = np.abs(np.diff(frames, axis=0)).mean((1, 2, 3))
    assert (steps > 1).all()  # every frame differs from the one before by more than rounding
    grey = [cv2.cvtColor(frame.astype(np.uint8), cv2.COLOR_RGB2GRAY) for frame in frames]
    assert min(float(picture.std()) for picture in grey) > 15


def test_the_same_videos_unpacked_packed_and_as_files(films: tuple[Path, ...], tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    unpacked, packed = prepare(films[0].parent, 0, work, least_frames=7)
    assert (unpacked.name, packed.name) == (UNPACKED, PACKED)
    for material in (unpacked, packed):
        assert len(material.source) == len(material.files) == 3
        for index, file in enumerate(material.files):
            assert file.read_bytes() == material.source.read(index)
            assert material.source.info(index).frames == 24
    assert [file.read_bytes() for file in unpacked.files] == [film.read_bytes() for film in films]
    assert describe(unpacked).startswith("3 videos, 72 frames of 96x64, 6 s, ")


def test_shards_are_measured_as_they_are(tiny_shards: Path, tmp_path: Path) -> None:
    (only,) = prepare(tiny_shards, 0, tmp_path, least_frames=7)
    assert only.name == PACKED
    assert [file.read_bytes() for file in only.files] == [only.source.read(index) for index in range(24)]


def test_videos_that_cannot_be_compared_are_left_out_with_a_word(
    films: tuple[Path, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = films[0].parent / "other.avi"
    writer = cv2.VideoWriter(str(other), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 64))
    for number in range(20):
        writer.write(np.full((64, 64, 3), number, np.uint8))
    writer.release()
    work = tmp_path / "work"
    work.mkdir()
    assert len(prepare(films[0].parent, 0, work, least_frames=7)[0].source) == 3
    assert "1 of 4 videos are left out; the first: other.avi: decoders read it differently" in caplog.text
    with pytest.raises(DataError, match=r"1 of 1 videos cannot be used; the first: other\.avi: decoders read"):
        prepare(other, 0, tmp_path, least_frames=7)
    with pytest.raises(DataError, match=r"4 of 4 videos .*000000\.mp4: 24 frames, a clip spans 25: lower --frames"):
        prepare(films[0].parent, 0, tmp_path, least_frames=25)


def test_bare_decoders_read_what_the_loader_reads(films: tuple[Path, ...], tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    for material in prepare(films[0].parent, 0, work, least_frames=7):
        clips = drawn_clips(material.source, WORK)
        assert len(clips) == WORK.clips == 6
        (steps,) = [list(batches(material.source, WORK, "auto", 0))]
        keys = [key for batch in steps for key in batch.keys]
        assert [material.source.info(clip.index).key for clip in clips] == keys
        for clip in clips:
            video = material.source.read(clip.index)
            expected = decode(video, clip.window, backend="pyav")
            assert bare_decoders().keys() >= {"pyav"}
            for prepare_read in bare_decoders().values():
                assert (prepare_read(video, clip.window)() == expected).all()
