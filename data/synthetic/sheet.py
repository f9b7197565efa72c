"""A contact sheet of the world: one row per motion, its frames from left to right."""

from pathlib import Path

import cv2
import numpy as np

from jepa.data.synthetic.shapes import Split
from jepa.data.synthetic.world import MOTIONS, WorldConfig, make_clip, motion_of
from jepa.errors import ConfigError

_ROW = 80  # pixels per frame on the sheet, at least
_TITLE = 190  # width of the names


def contact_sheet(config: WorldConfig, seed: int, split: Split) -> np.ndarray:
    """uint8 (rows, columns, 3), RGB: the first clip of each motion in the data set of this seed."""
    chosen = {motion_of(seed, index, split): index for index in range(len(MOTIONS))}
    factor = -(-_ROW // config.size)
    side = factor * config.size
    rows = []
    for motion in MOTIONS:
        frames = make_clip(config, seed, chosen[motion], split).frames
        strip = np.concatenate([np.pad(frame, ((0, 1), (0, 1), (0, 0))) for frame in frames], axis=1)
        strip = strip.repeat(factor, axis=0).repeat(factor, axis=1)
        title = np.zeros((strip.shape[0], _TITLE, 3), np.uint8)
        place = (6, side // 2 + 4)
        cv2.putText(title, motion, place, cv2.FONT_HERSHEY_SIMPLEX, 0.42, (230, 230, 230), 1, cv2.LINE_AA)
        rows.append(np.concatenate([title, strip], axis=1))
    return np.concatenate(rows)


def write_png(sheet: np.ndarray, path: Path) -> None:
    """Write an RGB picture; ConfigError if it cannot be written."""
    _, data = cv2.imencode(".png", sheet[..., ::-1])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.tobytes())
    except OSError as error:
        raise ConfigError(f"--preview {path}: cannot be written ({error.strerror}); choose another file") from None
