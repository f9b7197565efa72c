"""A folder of small H.264 videos, written here with PyAV."""

import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest


def write_video(path: Path, frames_THWC: np.ndarray) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8, options={"crf": "10", "threads": "1"})
        stream.height, stream.width = frames_THWC.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame_HWC in frames_THWC:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame_HWC, format="rgb24")))
        container.mux(stream.encode(None))


@pytest.fixture(scope="session")
def video_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve videos clip-00.mp4 .. clip-11.mp4 of 8 + n frames, 40 x 44 pixels (the odd ones 60 x 40).

    Video n is grey at brightness 20 n with a stripe that moves by two columns per frame.
    """
    folder = tmp_path_factory.mktemp("videos")
    for number in range(12):
        height, width = ((40, 44), (60, 40))[number % 2]
        frames = np.full((8 + number, height, width, 3), 20 * number, np.uint8)
        for time, frame in enumerate(frames):
            frame[:, 2 * time : 2 * time + 4] = 255
        write_video(folder / f"clip-{number:02d}.mp4", frames)
    return folder


def _processes() -> set[int]:
    return {process.pid for process in multiprocessing.active_children() if process.pid}


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - counts, does not walk


@pytest.fixture
def nothing_is_left() -> Iterator[None]:
    """No worker process and no open file is left behind by the test."""
    before, opened = _processes(), _descriptors()
    yield
    assert _processes() == before
    assert _descriptors() <= opened + 3  # the server of the processes, where a test has started it
