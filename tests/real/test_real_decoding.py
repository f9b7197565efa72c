"""Real films by every backend: the same frames, or one line that says why not. Set JEPA_TEST_DATA to keep the films."""

from pathlib import Path

import numpy as np
import pytest

from jepa.data.decode import Backend, backends, decode, probe
from jepa.data.video_file import iterate, upright
from jepa.errors import DataError

pytestmark = pytest.mark.slow

ROUNDING = 1
"""MPEG-4 part 2: versions of FFmpeg round the inverse cosine transform differently."""
BITWISE = {"h264", "mpeg2video"}


def files(*folders: Path) -> list[Path]:
    return [path for folder in folders for path in sorted(folder.iterdir()) if not path.name.startswith(".")]


def attempt(path: Path, wanted: list[int], backend: Backend) -> tuple[np.ndarray | None, str]:
    """The frames, or why the backend refuses."""
    try:
        return decode(path.read_bytes(), wanted, backend=backend), ""
    except DataError as error:
        return None, str(error)


def test_every_backend_returns_the_very_frames_or_refuses(real_clips: Path, more_clips: Path) -> None:
    refused: dict[str, list[str]] = {}
    videos = [path for path in files(real_clips, more_clips) if path.suffix != ".jpg"]
    assert len(videos) == 12
    for path in videos:
        info = probe(path)
        wanted = [info.frames - 1, 2, 2, info.frames // 3, 0, info.frames // 2]
        # What frame i is, is told by decoding all of them and counting.
        counted = dict.fromkeys(wanted)
        number = -1
        for number, frame in enumerate(iterate(path)):
            if number in counted:
                counted[number] = np.array(upright(frame))
        assert number + 1 == info.frames, path
        for name in ("auto", *(name for name, version in backends().items() if version)):
            clip, refusal = attempt(path, wanted, name)
            if clip is None:
                assert "\n" not in refusal
                refused.setdefault(name, []).append(path.name)
                continue
            bound = 0 if info.codec in BITWISE else ROUNDING
            for frame_HWC, index in zip(clip, wanted, strict=True):
                assert counted[index] is not None
                assert np.abs(frame_HWC.astype(int) - counted[index]).max() <= bound, (path.name, name, index)
    assert set(refused) <= {"decord", "torchcodec"}
    assert refused.get("decord", []) in ([], ["cityCC0.mpg", "b.avi"])


def test_real_photos_are_clips(more_clips: Path) -> None:
    for path in files(more_clips):
        if path.suffix == ".jpg":
            info = probe(path)
            clip = decode(path, [0, 0], short_side=64)
            assert (info.codec, info.frames) == ("jpeg", 1)
            assert min(clip.shape[1:3]) == 64
            assert 20 < clip.mean() < 235
