"""What each token of a clip shows, from the instance masks that come with it: body, ground, or the edge between.

`jepa synth` writes a member `masks.npz` beside each video, with `instances` uint8 (T, H, W): 0 for the ground, else the
number of a body. Here only body or not counts. The masks take the way of the clip: the frames of its window, the
centre square, the size of the clip (the nearest pixel). The *share* of a token is the part of its tubelet that bodies
cover. With a share of at least `body` the token shows a body; else with at most `ground` the ground; what lies
between, if the two differ, is the edge of a body and neither teaches nor tests.
"""

import io
import zipfile

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from jepa.data.transforms import centre_crop_labels
from jepa.data.windows import segment_windows
from jepa.errors import DataError
from jepa.eval.clips import ClipSet
from jepa.eval.features import ClipView
from jepa.tokens import TokenGrid

MASKS, INSTANCES = "masks.npz", "instances"
EDGE, GROUND, BODY = -1, 0, 1


def body_shares(clips: ClipSet, view: ClipView, grid: TokenGrid) -> Tensor:
    """Part of each token that bodies cover, float32 (videos, segments * N), in the order of a `TokenTable`.

    Args:
        clips: videos with masks.
        view: window, size and segments of the clips.
        grid: token grid of such a clip.

    Raises:
        DataError: a video has no masks, or they are not of its frames.
    """
    rows = []
    for row, info in enumerate(clips.infos):
        covered_THW = (instances(clips, row) > 0).astype(np.uint8)
        windows = segment_windows(info, view.window, view.segments)
        cuts = np.stack([centre_crop_labels(covered_THW[list(window)], view.size) for window in windows])
        # Clips divide into tubelets, so these means are over all pixels of one token each.
        rows.append(F.adaptive_avg_pool3d(torch.from_numpy(cuts).float().unsqueeze(1), grid.shape).flatten())
    return torch.stack(rows)


def instances(clips: ClipSet, row: int) -> np.ndarray:
    """Instance masks of the video in a row, uint8 (T, H, W).

    Raises:
        DataError: there are none, they cannot be read, or they are not of the video's frames.
    """
    info, source = clips.infos[row], clips.source
    try:
        with np.load(io.BytesIO(source.extra(clips.indices[row], MASKS)), allow_pickle=False) as members:
            found: np.ndarray = members[INSTANCES]
    except KeyError as error:
        raise DataError(
            f"clip {info.key} of {source.name} has no {MASKS} with '{INSTANCES}': the segmentation probe needs masks "
            "of the bodies, as `jepa synth` writes; leave it out of --probes"
        ) from error
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"clip {info.key} of {source.name}: {MASKS} cannot be read ({error}); make it again") from error
    wanted = (info.frames, info.height, info.width)
    if found.shape != wanted:
        raise DataError(
            f"clip {info.key} of {source.name}: '{INSTANCES}' has shape {found.shape}, expected {wanted}, a number for "
            "each pixel of the video"
        )
    return found


def token_labels(shares: Tensor, *, body: float, ground: float) -> Tensor:
    """BODY, GROUND or EDGE for each share, int64 of the same shape."""
    labels = torch.full(shares.shape, EDGE)
    labels[shares <= ground] = GROUND
    labels[shares >= body] = BODY
    return labels
