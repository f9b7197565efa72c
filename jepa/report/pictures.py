"""What the run looks like on frames: its masks, and its features as colours.

Both need the videos, and the feature maps need the weights; either may be gone by the time a page is made. Whatever
cannot be had is said in one line. A few clips spread over the test part are shown; a few more go into the principal
components, so that the mean feature of each place can be taken away (see `jepa.viz.pca`). Those shown differ in
their labels as much as the few allow.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from jepa.checkpoints.load import FrozenEncoder, load_encoder
from jepa.config import convert
from jepa.data.evaluation_batches import evaluation_batches
from jepa.data.loader_config import LoaderConfig
from jepa.data.source import Source, has_split, is_there, open_source
from jepa.data.windows import WindowConfig, centre_window
from jepa.errors import JepaError
from jepa.masks.build import MaskSampler, MasksConfig
from jepa.report.collect import Run
from jepa.report.headline import TASK_ORDER, ordered
from jepa.tokens import TokenGrid
from jepa.viz.contact import data_uri, enlarge, reduce, sheet, spaced, varied
from jepa.viz.masks import draw_mask, token_map
from jepa.viz.pca import beside_frames, feature_maps

SHOWN_CLIPS = 4
LABEL_ORDER = (*TASK_ORDER, "colour")
"""The labels that shown clips should differ in first."""
PCA_CLIPS = 24
SHOWN_STEPS = 8


@dataclass(frozen=True)
class Strip:
    """One row of frames."""

    label: str
    image: str
    """PNG as a data address."""
    count: int
    """Frames in the row."""
    crisp: bool
    """Enlarge without smoothing: the frames are small."""


@dataclass(frozen=True)
class ClipPictures:
    """Rows that belong to one clip."""

    title: str
    strips: tuple[Strip, ...]


@dataclass(frozen=True)
class Pictures:
    """Everything drawn on frames for one run."""

    masks: tuple[ClipPictures, ...]
    maps: tuple[ClipPictures, ...]
    maps_caption: str
    masks_note: str
    """Why there are no masks; empty if there are."""
    maps_note: str
    """Why feature maps are missing; empty if none is."""


@dataclass(frozen=True)
class _Clips:
    """Some decoded clips."""

    frames: np.ndarray
    """uint8 (B, T, H, W, 3)."""
    titles: tuple[str, ...]
    shown: tuple[int, ...]
    """Which of them are shown."""


@dataclass(frozen=True)
class _View:
    """How the run cuts clips."""

    window: WindowConfig
    size: int
    grid: TokenGrid


def draw_pictures(run: Run, data: Path | None = None) -> Pictures:
    """Masks and feature maps of a run; notes in place of what cannot be drawn.

    Args:
        run: the run, its stages included.
        data: videos to draw on; where the run took its own when none.
    """
    encoders, notes = _load_encoders(run)
    try:
        view = _view(run, encoders)
        clips = _read_clips(_find_data(run, data), view)
    except JepaError as error:
        return Pictures((), (), "", f"No masks on frames: {error}.", f"No feature maps: {error}.")
    masks: tuple[ClipPictures, ...] = ()
    masks_note = ""
    try:
        masks = _draw_masks(run, clips, view.grid)
    except JepaError as error:
        masks_note = f"No masks on frames: {error}."
    maps, caption = _draw_maps(encoders, clips) if encoders else ((), "")
    return Pictures(masks, maps, caption, masks_note, " ".join(notes))


def _load_encoders(run: Run) -> tuple[dict[str, FrozenEncoder], list[str]]:
    """The encoder of each stage that has one, last stage last."""
    encoders, notes = {}, []
    for stage, label in (*((stage, stage.name) for stage in run.stages), (run, "this run")):
        try:
            encoders[label] = load_encoder(stage.path)
        except JepaError as error:
            notes.append(f"No feature maps of {label}: {error}.")
    return encoders, notes


def _view(run: Run, encoders: Mapping[str, FrozenEncoder]) -> _View:
    """The run's clips: from its encoder if there is one, else from its configuration."""
    if encoders:
        encoder = list(encoders.values())[-1]
        config, clip = encoder.config, encoder.facts.get("clip", {})
        frames, size, tubelet, patch = config.frames, config.size, config.tubelet, config.patch
        window = WindowConfig.of_facts(frames, clip)
    else:
        clip, model = run.config.get("clip", {}), run.config.get("model", {})
        try:
            frames, size, tubelet, patch = (
                int(part[name])
                for part, name in ((clip, "frames"), (clip, "size"), (model, "tubelet"), (model, "patch"))
            )
            window = WindowConfig.of_facts(frames, clip)
        except (KeyError, TypeError, ValueError):
            raise JepaError("neither weights nor a configuration say how clips are cut") from None
    # One short video among those shown shall not cost the page its pictures.
    window = replace(window, short="repeat")
    return _View(window, size, TokenGrid.of_clip(frames, size, size, tubelet=tubelet, patch=patch))


def _find_data(run: Run, data: Path | None) -> Source:
    """The test part of the videos if there is one, else the training part."""
    wanted = [data] if data else [run.path / "data"]
    if not data and run.config.get("data"):
        wanted.insert(0, Path(str(run.config["data"])))
    for path in wanted:
        if is_there(path):
            return open_source(path, "test" if has_split(path, "test") else "train")
    raise JepaError(f"the videos are not at {wanted[0]} any more; name them with --data")


def _read_clips(source: Source, view: _View) -> _Clips:
    indices = spaced(len(source), PCA_CLIPS)
    batches = evaluation_batches(
        source,
        window=view.window,
        size=view.size,
        batch_size=len(indices),
        loader=LoaderConfig(batch_size=len(indices), workers=0, cache_gb=0.0),
        indices=indices,
    )
    clips_BCTHW = torch.cat([batch.clips for batch in batches])
    titles, labels = [], []
    for index in indices:
        info = source.info(index)
        values = [info.labels[name] for name in ordered(list(info.labels), LABEL_ORDER)]
        labels.append([value for value in values if isinstance(value, str)])
        about = ", ".join(labels[-1])
        cut = centre_window(info, view.window)
        times = f"{cut[0] / info.fps:.1f} to {(cut[-1] + 1) / info.fps:.1f} s"
        titles.append(" · ".join(filter(None, (about, info.key, times))))
    frames_BTHWC = clips_BCTHW.permute(0, 2, 3, 4, 1).contiguous().numpy()
    return _Clips(frames_BTHWC, tuple(titles), tuple(varied(labels, SHOWN_CLIPS)))


def _strip(label: str, frames: Sequence[np.ndarray]) -> Strip:
    small = [reduce(frame) for frame in frames]
    height = small[0].shape[0]
    return Strip(label, data_uri(sheet([small], gap=max(1, height // 32))), len(small), crisp=height <= 80)


def _draw_masks(run: Run, clips: _Clips, grid: TokenGrid) -> tuple[ClipPictures, ...]:
    """The masks of the run's first step on two clips, one row per mask configuration."""
    if "masks" not in run.config:
        raise JepaError("the run's configuration does not tell them")
    try:
        config = convert(run.config["masks"], MasksConfig)
    except ValueError as error:
        raise JepaError(f"the run's configuration of masks cannot be read ({error})") from error
    chosen = clips.shown[:2]
    masks = MaskSampler(config, grid, int(run.config.get("seed", 0)))(0, len(chosen))
    steps = spaced(grid.steps, SHOWN_STEPS)
    drawn = []
    for number, clip in enumerate(chosen):
        frames = clips.frames[clip]
        pick = [beside_frames(np.empty(grid.shape), len(frames))[step] for step in steps]
        strips = [_strip("frames", list(frames[pick]))]
        for kind, mask in enumerate(masks):
            context, target = (token_map(ids[number].numpy(), grid.shape) for ids in (mask.context, mask.target))
            label = f"mask {kind + 1}: {context.mean():.0%} seen, {target.mean():.0%} predicted"
            if mask.blocks > 1:
                label += f", in {mask.blocks} blocks"
            strips.append(_strip(label, list(draw_mask(frames, context, target)[pick])))
        drawn.append(ClipPictures(clips.titles[clip], tuple(strips)))
    return tuple(drawn)


@torch.inference_mode()
def _draw_maps(encoders: Mapping[str, FrozenEncoder], clips: _Clips) -> tuple[tuple[ClipPictures, ...], str]:
    """Frames, and below them the feature map of each encoder."""
    pixels = torch.from_numpy(clips.frames).permute(0, 4, 1, 2, 3)
    found, shares = {}, []
    for label, encoder in encoders.items():
        normalised = encoder.preprocess(pixels)
        tokens_BND = torch.cat([encoder(part) for part in normalised.split(4)])
        maps = feature_maps(tokens_BND.float().numpy(), encoder.grid_of(normalised).shape)
        found[label] = maps.colours
        shares.append(f"{label} {sum(maps.explained):.0%}")
        removed = maps.place_removed
    drawn = []
    for clip in clips.shown:
        frames = clips.frames[clip]
        steps = next(iter(found.values())).shape[1]
        pick = beside_frames(np.empty((steps,)), len(frames))
        chosen = spaced(steps, SHOWN_STEPS)
        strips = [_strip("frames", [frames[pick[step]] for step in chosen])]
        for label, colours in found.items():
            height, width = reduce(frames[0]).shape[:2]
            strips.append(_strip(label, [enlarge(colours[clip][step], height, width) for step in chosen]))
        drawn.append(ClipPictures(clips.titles[clip], tuple(strips)))
    place = "the mean feature of each place taken away, " if removed else ""
    caption = (
        f"First three principal components of the output tokens as red, green and blue; one basis for "
        f"{len(clips.frames)} clips, {place}so equal colours mean equal features. "
        f"Variance in these three: {', '.join(shares)}."
    )
    return tuple(drawn), caption
