import numpy as np
import pytest

from jepa.viz.samples import CELL, TITLE, SheetRow, fitted, sample_sheet


def test_a_small_frame_is_enlarged_by_a_whole_factor_and_centred() -> None:
    frame = np.random.default_rng(0).integers(1, 256, (10, 20, 3), np.uint8)
    cell = fitted(frame, 45, 50)
    np.testing.assert_array_equal(cell[12:32, 5:45], np.kron(frame, np.ones((2, 2, 1), np.uint8)))
    assert cell.sum() == cell[12:32, 5:45].sum(), "the rest is black"


@pytest.mark.parametrize("shape", [(720, 1280), (1280, 720), (3, 900), (900, 3)])
def test_a_large_frame_is_shrunk_to_fit_and_not_stretched(shape: tuple[int, int]) -> None:
    cell = fitted(np.full((*shape, 3), 200, np.uint8))
    assert cell.shape == (*CELL, 3)
    rows, columns = (np.flatnonzero(cell[..., 0].any(axis)) for axis in (1, 0))
    factor = min(CELL[0] / shape[0], CELL[1] / shape[1])
    assert abs(len(rows) - shape[0] * factor) <= 1
    assert abs(len(columns) - shape[1] * factor) <= 1


def test_a_sheet_has_a_row_for_each_sample_with_its_name_and_frames() -> None:
    frames = np.stack([np.full((*CELL, 3), value, np.uint8) for value in (50, 100, 150)])
    sheet = sample_sheet([SheetRow(("first", "x" * 99), frames), SheetRow(("ü",), None), SheetRow((), frames[:1])])
    assert sheet.shape == (3 * (CELL[0] + 2), TITLE + 3 * (CELL[1] + 2), 3)
    assert [int(sheet[9, TITLE + number * (CELL[1] + 2) + 9, 0]) for number in range(3)] == [50, 100, 150]
    height = CELL[0] + 2
    assert sheet[:height, :TITLE].any()
    assert sheet[height : 2 * height, :TITLE].any()
    assert not sheet[height : 2 * height, TITLE:].any(), "no frames"
    assert not sheet[2 * height :, TITLE + CELL[1] :].any(), "short rows end in black"
    with pytest.raises(ValueError, match="no samples"):
        sample_sheet([])
