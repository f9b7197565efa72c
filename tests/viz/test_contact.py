import io

import matplotlib.image
import numpy as np
import pytest

from jepa.viz.contact import data_uri, enlarge, png, reduce, sheet, spaced, varied


def test_a_png_holds_the_pixels_and_the_same_bytes_every_time() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (6, 5, 4), dtype=np.uint8)
    content = png(picture)
    read = matplotlib.image.imread(io.BytesIO(content))
    np.testing.assert_array_equal((read * 255).round().astype(np.uint8), picture)
    assert png(picture.copy()) == content
    assert data_uri(picture).startswith("data:image/png;base64,iVBOR")


def test_a_sheet_places_frames_with_transparent_gaps() -> None:
    frames = [np.full((2, 3, 3), value, np.uint8) for value in (10, 20, 30)]
    picture = sheet([frames[:2], frames[2:]], gap=1)
    assert picture.shape == (5, 7, 4)
    assert picture[0, 0].tolist() == [10, 10, 10, 255]
    assert picture[1, 6].tolist() == [20, 20, 20, 255]
    assert picture[3, 2].tolist() == [30, 30, 30, 255]
    assert (picture[2] == 0).all()
    assert (picture[:, 3] == 0).all()
    assert (picture[3:, 4:] == 0).all()
    with pytest.raises(ValueError, match="no frames"):
        sheet([])


def test_reduction_averages_blocks_and_leaves_small_frames() -> None:
    frame = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    assert reduce(frame, 6) is frame
    expected = [[frame[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((0, 1)).round() for j in range(3)] for i in range(2)]
    np.testing.assert_array_equal(reduce(frame, 3), np.array(expected))
    assert max(reduce(np.zeros((480, 854, 3), np.uint8)).shape) <= 160


def test_enlarging_repeats_pixels() -> None:
    small = np.array([[1, 2], [3, 4]])
    np.testing.assert_array_equal(enlarge(small, 4, 6), np.kron(small, np.ones((2, 3), int)))


@pytest.mark.parametrize(("count", "most", "expected"), [(3, 5, [0, 1, 2]), (9, 3, [0, 4, 8]), (9, 1, [0]), (0, 3, [])])
def test_spaced(count: int, most: int, expected: list[int]) -> None:
    assert spaced(count, most) == expected


def test_varied_prefers_labels_not_yet_taken() -> None:
    labels = [("fall", "red"), ("fall", "red"), ("fall", "blue"), ("roll", "red"), ("roll", "blue"), ("spin", "red")]
    assert varied(labels, 3) == [0, 4, 5]  # three motions, and of the two that roll the one of another colour
    assert varied(labels, 9) == list(range(6))
    assert varied([()] * 9, 3) == spaced(9, 3)
