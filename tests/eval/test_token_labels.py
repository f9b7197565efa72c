"""Labels of tokens: the masks go the way of the clip, and what is wrong with them is said in one line."""

import io
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from jepa.data.source import SampleInfo
from jepa.data.transforms import centre_crop, centre_crop_labels
from jepa.data.windows import Short, WindowConfig
from jepa.errors import DataError
from jepa.eval.clips import ClipSet
from jepa.eval.features import ClipView
from jepa.eval.token_labels import BODY, EDGE, GROUND, body_shares, token_labels
from jepa.tokens import TokenGrid


def packed(**members: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **members)
    return file.getvalue()


@dataclass
class Masked:
    """Videos that consist of their masks."""

    members: list[bytes | None]
    shape: tuple[int, int, int]
    name: str = "masked"
    fingerprint: str = "masked"
    runs: tuple[int, ...] = field(default=(1,))

    def __len__(self) -> int:
        return len(self.members)

    def info(self, index: int) -> SampleInfo:
        frames, height, width = self.shape
        return SampleInfo(f"v{index}", frames, 8.0, height, width, {}, "")

    def read(self, index: int) -> bytes:
        raise AssertionError("labels come from the masks, not from the video")

    def place(self, index: int) -> str:
        return f"video {index}"

    def extra(self, index: int, name: str) -> bytes:
        if name != "masks.npz" or (found := self.members[index]) is None:
            raise KeyError(name)
        return found


def clips_of(*instances: np.ndarray) -> ClipSet:
    source = Masked([packed(instances=video, positions=np.zeros(1)) for video in instances], instances[0].shape)
    return ClipSet(source, tuple(range(len(instances))))


def moving_square(frames: int, height: int, width: int, *, side: int, start: tuple[int, int], step: int) -> np.ndarray:
    """A square body, number 3, that moves to the right by `step` pixels a frame."""
    video = np.zeros((frames, height, width), np.uint8)
    for number in range(frames):
        left = start[1] + step * number
        video[number, start[0] : start[0] + side, max(left, 0) : max(left + side, 0)] = 3
    return video


def view(frames: int, size: int, stride: int = 1, segments: int = 1, short: Short = "error") -> ClipView:
    return ClipView(WindowConfig(frames, stride, None, short), size, segments)


def test_a_square_that_moves_by_a_token_a_tubelet_is_labelled_where_it_is() -> None:
    # 15 frames, of which 8 at stride 2 take the first, the third and on to the last.
    video = moving_square(15, 32, 32, side=8, start=(8, 0), step=2)
    shares = body_shares(clips_of(video), view(8, 32, stride=2), TokenGrid(4, 4, 4))
    assert shares.shape == (1, 64)
    expected = torch.zeros(4, 4, 4)
    for step in range(4):
        for frame in (4 * step, 4 * step + 2):  # the two frames of the tubelet
            for column in range(4):
                covered = max(0, min(2 * frame + 8, 8 * column + 8) - max(2 * frame, 8 * column))
                expected[step, 1, column] += covered / 8 / 2
    torch.testing.assert_close(shares.reshape(4, 4, 4), expected)
    labels = token_labels(shares, body=0.5, ground=0.5).reshape(4, 4, 4)
    assert labels[0, 1].tolist() == [BODY, GROUND, GROUND, GROUND]
    assert (labels[:, [0, 2, 3]] == GROUND).all()


def test_the_centre_square_of_a_wide_video_is_what_counts() -> None:
    video = np.zeros((2, 20, 50), np.uint8)
    video[:, :, :15] = 1  # outside of the centre square, which starts at column 15
    video[:, :10, 15:25] = 2  # its upper left quarter
    shares = body_shares(clips_of(video), view(2, 16), TokenGrid(1, 2, 2))
    assert shares.tolist() == [[1.0, 0.0, 0.0, 0.0]]


@pytest.mark.parametrize(("height", "width", "size"), [(40, 40, 32), (36, 52, 32), (31, 17, 16), (20, 20, 48)])
def test_masks_lie_where_the_pixels_of_the_clip_lie(height: int, width: int, size: int) -> None:
    """A clip that shows its own mask, white on black, goes through the crop of the pixels; sizes do not divide."""
    video = np.zeros((4, height, width), np.uint8)
    rows, columns = np.mgrid[:height, :width]
    video[:, (rows - 0.45 * height) ** 2 + (columns - 0.55 * width) ** 2 < (0.3 * min(height, width)) ** 2] = 1
    pixels = centre_crop(np.repeat(255 * video[..., None], 3, axis=3), size)[..., 0]
    labels = centre_crop_labels(video, size)
    assert labels.shape == (4, size, size)
    assert set(np.unique(labels)) == {0, 1}, "nothing is mixed"
    clear = (pixels < 64) | (pixels > 191)
    np.testing.assert_array_equal(labels[clear], pixels[clear] > 127)
    assert clear.mean() > 0.85


def test_segments_and_repeated_frames_follow_the_windows() -> None:
    video = np.zeros((6, 16, 16), np.uint8)
    video[3:] = 1
    grid = TokenGrid(1, 1, 1)
    assert body_shares(clips_of(video), view(2, 16, segments=3), grid).tolist() == [[0.0, 0.5, 1.0]]
    repeated = body_shares(clips_of(video), view(8, 16, short="repeat"), TokenGrid(4, 1, 1))
    assert repeated.tolist() == [[0.0, 0.5, 1.0, 1.0]]


def test_an_image_is_labelled_by_its_one_frame() -> None:
    video = np.zeros((3, 16, 16), np.uint8)
    video[1, :8, 8:] = 1
    assert body_shares(clips_of(video), view(1, 16), TokenGrid.of_image(16, 16, patch=8)).tolist() == [[0, 1, 0, 0]]


def test_edges_are_between_the_two_parts() -> None:
    shares = torch.tensor([[0.0, 0.05, 0.06, 0.24, 0.25, 1.0]])
    labels = token_labels(shares, body=0.25, ground=0.05)
    assert labels.tolist() == [[GROUND, GROUND, EDGE, EDGE, BODY, BODY]]
    assert EDGE not in token_labels(shares, body=0.25, ground=0.25)


def broken_zip() -> bytes:
    return packed(instances=np.zeros((4, 16, 16), np.uint8))[:-40]


@pytest.mark.parametrize(
    ("member", "words"),
    [
        (lambda: None, "clip v0 of masked has no masks.npz with 'instances'"),
        (lambda: packed(positions=np.zeros(3)), "has no masks.npz with 'instances'"),
        (lambda: b"no archive", "masks.npz cannot be read"),
        (broken_zip, "masks.npz cannot be read"),
        (lambda: packed(instances=np.zeros((3, 16, 16), np.uint8)), r"shape \(3, 16, 16\), expected \(4, 16, 16\)"),
    ],
)
def test_masks_that_are_none_are_named(member: Callable[[], bytes | None], words: str) -> None:
    clips = ClipSet(Masked([member()], (4, 16, 16)), (0,))
    with pytest.raises(DataError, match=words):
        body_shares(clips, view(4, 16), TokenGrid(2, 1, 1))
