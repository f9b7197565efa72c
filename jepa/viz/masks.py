"""Masks on frames: what the context encoder sees stays visible, what the predictor must fill in is shaded.

Tokens cover a step of several frames and a square of pixels; a mask is therefore drawn on every frame of its step.
Kept (context) tokens keep their pixels; target tokens are covered by the accent colour, with a thin lighter edge
where the target region ends; tokens that are neither seen nor predicted are dimmed and hatched, because a flat grey
could be the ground of the frame.
"""

import numpy as np

from jepa.viz.contact import enlarge

TARGET_RGB = np.array([11, 99, 165], np.float32)
EDGE_RGB = np.array([120, 190, 240], np.float32)
COVER = 0.82
DIM = 0.75
DIM_LEVEL = 96
"""Grey towards which tokens that are neither seen nor predicted are dimmed."""
STRIPE_LEVEL = 216
"""Grey of the stripes over them."""


def token_map(ids: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """bool (steps, rows, columns) that is true at the given token ids."""
    flat = np.zeros(int(np.prod(shape)), bool)
    flat[ids] = True
    return flat.reshape(shape)


def _edge(region: np.ndarray) -> np.ndarray:
    """Pixels of the region (H, W) that touch a pixel outside it (the picture's border is no edge)."""
    padded = np.pad(region, 1, mode="edge")
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    edge: np.ndarray = region & ~inside
    return edge


def _stripes(height: int, width: int) -> np.ndarray:
    """bool (height, width): diagonal stripes, 1 pixel in 4 on frames of 64 pixels and less, wider on larger ones."""
    period = max(4, 4 * round(height / 64))
    stripes: np.ndarray = np.add.outer(np.arange(height), np.arange(width)) % period < period // 4
    return stripes


def draw_mask(frames: np.ndarray, context: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The frames with one mask drawn on them.

    Args:
        frames: uint8 (T, H, W, 3).
        context: bool (steps, rows, columns) of the tokens that are seen (see `token_map`).
        target: bool (steps, rows, columns) of the tokens to predict.

    Returns:
        uint8 (T, H, W, 3).
    """
    if context.shape != target.shape:
        raise ValueError(f"got context {context.shape} and target {target.shape}, expected one shape (see token_map)")
    count, height, width = frames.shape[:3]
    drawn = np.empty_like(frames)
    for index in range(count):
        step = index * target.shape[0] // count
        seen = enlarge(context[step], height, width)
        hidden = enlarge(target[step], height, width)
        frame = frames[index].astype(np.float32)
        grey = frame.mean(-1, keepdims=True) * (1 - DIM) + DIM_LEVEL * DIM
        grey = np.where(_stripes(height, width)[..., None], STRIPE_LEVEL, grey)
        frame = np.where((seen | hidden)[..., None], frame, grey)
        frame = np.where(hidden[..., None], frame * (1 - COVER) + TARGET_RGB * COVER, frame)
        frame = np.where(_edge(hidden)[..., None], EDGE_RGB, frame)
        drawn[index] = frame.round().clip(0, 255).astype(np.uint8)
    return drawn
