"""What the tensors of an official file tell of the architecture, and what must be known besides.

Shapes and names tell width, depth, hidden width, patch, tubelet, levels, tokenizers, the predictor and its mask tokens.
They do not tell the number of heads (by width: 64 channels each, but 80 in ViT-H, 88 in I-JEPA's giant), the kind of
positions, or the clips of training. What is in no table is asked for.

`pos_embed` is real in V-JEPA 1 and I-JEPA, where it is a fixed sine-cosine table: ours must be equal to it. V-JEPA 2
files carry a stale one that its rotary encoder never used. The stale one can be a sine-cosine table too, so a predictor
without mask tokens, or with more than V-JEPA 1's two, also tells it is stale; of other files that must be told.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from jepa.checkpoints.weights import Hints, listed
from jepa.errors import DataError
from jepa.models.action_predictor import ActionPredictorConfig
from jepa.models.catalog import CATALOG, LEVELS, ROPE_BASE, Entry, usual_heads
from jepa.models.encoder import EncoderConfig
from jepa.models.place import PositionKind
from jepa.models.positions import SinCos, sincos_positions
from jepa.models.predictor import PredictorConfig
from jepa.models.probes import ANTICIPATION, ProbeConfig
from jepa.tokens import TokenGrid

UNSURE = (1408, 1664)
"""Widths that the official code also builds with 16 heads, which no published video model has."""
PREDICTOR_HEAD, ACTION_HEAD, PROBE_HEADS = 32, 64, 16
"""Channels of a head of V-JEPA 2's predictors and of its action-conditioned one; heads of every published probe."""
ROPE_BASES = {14: 252}
"""Size over which V-JEPA 2.1 stretches its positions, where the patch does not divide the usual one."""
VJEPA1_MASK_TOKENS = 2
"""More of them, or none, and `pos_embed` is stale."""
SAME, ROUNDED = 1e-4, 2
"""Difference up to which two tables of positions are the same: this, or so many steps next to 1 of a coarser dtype."""

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Positions:
    """What `pos_embed` of an encoder says."""

    kind: PositionKind
    base: TokenGrid | None = None
    """Grid of the table, which tells the clips of training."""


def encoder_of(tensors: Tensors, hints: Hints, where: str, mask_tokens: int | None) -> tuple[EncoderConfig, list[str]]:
    """Architecture of an encoder, and what was assumed.

    Args:
        tensors: of the encoder, by official names without prefix.
        hints: what the user knows.
        where: the file, for messages.
        mask_tokens: of the predictor in the same file, if there is one.

    Raises:
        DataError: this is no encoder, or one that this package lacks, or one that must be told more about.
    """
    patches = _shape(tensors, "patch_embed.proj.weight", where, 4, 5)
    hidden = _shape(tensors, "blocks.0.mlp.fc1.weight", where)[0]
    if any(name.endswith("mlp.fc3.weight") for name in tensors):
        raise DataError(f"{where} has SwiGLU layers, which no published encoder has and this package does not")
    width, channels, tubelet, patch = patches[0], patches[1], patches[2] if len(patches) == 5 else 1, patches[-1]
    depth = blocks(tensors, "blocks", where)
    image_tokenizer = "patch_embed_img.proj.weight" in tensors
    levels = _levels(tensors, depth, hints, where)
    positions = positions_of(tensors, hints, where, mask_tokens)
    entry = _published(width, depth, patch, tubelet, image_tokenizer, positions)
    frames, size, assumed = _clip(entry, positions, hints, patch, tubelet, where)
    heads = _heads(hints.heads, usual_heads(width, positions.kind), width, where, "heads")
    if width in UNSURE and hints.heads is None and heads != 16:
        assumed = [*assumed, f"heads {heads}"]
    interpolated = ROPE_BASES.get(patch, ROPE_BASE) if image_tokenizer else None
    config = EncoderConfig(
        width=width,
        depth=depth,
        heads=heads,
        mlp_ratio=hidden / width,
        patch=patch,
        tubelet=tubelet,
        channels=channels,
        frames=frames,
        size=size,
        positions=positions.kind,
        rope="interleaved" if levels or image_tokenizer or positions.kind != "rope" else "tiled",
        interpolate_from=interpolated if positions.kind == "rope" else size,
        levels=levels,
        image_tokenizer=image_tokenizer,
        init="fixed" if positions.kind == "rope" else "flat",
    )
    return config, assumed


def positions_of(tensors: Tensors, hints: Hints, where: str, mask_tokens: int | None) -> Positions:
    """Which positions an encoder uses. Raises DataError when its file leaves that open, or has unknown ones."""
    image = tensors["patch_embed.proj.weight"].ndim == 4
    table = tensors.get("pos_embed")
    if table is None:
        if image:
            raise DataError(f"{where} has an image encoder without pos_embed: it is no I-JEPA encoder")
        return Positions(hints.positions or "rope")
    kind: SinCos = "sincos2d" if image else "sincos"
    told = hints.positions
    newer = mask_tokens is not None and not 1 <= mask_tokens <= VJEPA1_MASK_TOKENS
    if not image and (told == "rope" or (told is None and newer)):
        return Positions("rope")
    base = grid_of(table, kind, tensors["patch_embed.proj.weight"].shape[0])
    if told is None and base is not None and not image and mask_tokens is None:
        raise DataError(
            f"{where} has sine-cosine positions, which V-JEPA 1 uses and V-JEPA 2 does not, and no predictor to tell "
            "which it is: say so by --positions sincos or --positions rope"
        )
    if base is not None:
        return Positions(kind, base)
    if image or told is not None:
        raise DataError(f"{where} has positions (pos_embed) that are no sine-cosine table: not a published encoder")
    raise DataError(
        f"{where} has positions (pos_embed) that are no sine-cosine table, and nothing tells whether they are "
        "stale: if its encoder is rotary, say so by --positions rope"
    )


def grid_of(table: Tensor, kind: SinCos, width: int) -> TokenGrid | None:
    """The grid whose sine-cosine table this is, with square frames and vectors of this width; none if it is none."""
    if table.ndim != 3 or (table.shape[0], table.shape[2]) != (1, width):
        return None
    count = table.shape[1]
    # Half precision has rounded what was computed in single.
    same = max(SAME, ROUNDED * torch.finfo(table.dtype).eps)
    for steps in (1,) if kind == "sincos2d" else range(1, count + 1):
        side = math.isqrt(count // steps)
        if count % steps or side * side * steps != count:
            continue
        grid = TokenGrid(steps, side, side)
        if torch.allclose(sincos_positions(grid, width, kind), table[0].float(), atol=same, rtol=0):
            return grid
    return None


def why_dropped(positions: PositionKind) -> str:
    """Why a tensor of positions is not kept by an encoder or predictor with positions of this kind."""
    if positions == "rope":
        return "stale: rotary positions do not use it"
    return "a fixed sine-cosine table, which is computed instead"


def predictor_of(
    tensors: Tensors, encoder: EncoderConfig, hints: Hints, where: str
) -> PredictorConfig | ActionPredictorConfig:
    """Architecture of a predictor. Raises DataError as `encoder_of`."""
    fused, width = "predictor_embed.0.weight" in tensors, inner_width(tensors, where)
    hidden = _shape(tensors, "predictor_blocks.0.mlp.fc1.weight", where)[0]
    depth = blocks(tensors, "predictor_blocks", where)
    if "action_encoder.weight" in tensors:
        usual = width // ACTION_HEAD if width % ACTION_HEAD == 0 else None
        return ActionPredictorConfig(
            context_width=encoder.width,
            width=width,
            depth=depth,
            heads=_heads(hints.predictor_heads, usual, width, where, "predictor_heads"),
            mlp_ratio=hidden / width,
            actions=_shape(tensors, "action_encoder.weight", where)[1],
        )
    # V-JEPA 1 and I-JEPA give the predictor as many heads as the encoder.
    usual = width // PREDICTOR_HEAD if width % PREDICTOR_HEAD == 0 else None
    usual = usual if encoder.positions == "rope" else encoder.heads
    return PredictorConfig(
        width=width,
        depth=depth,
        heads=_heads(hints.predictor_heads, usual, width, where, "predictor_heads"),
        mlp_ratio=hidden / width,
        mask_tokens=mask_tokens_of(tensors),
        mask_token_init="normal" if encoder.positions == "sincos2d" else "zero",
        fused_levels=max(1, _shape(tensors, "predictor_embed.0.weight", where)[1] // encoder.width) if fused else 1,
        context_head="predictor_proj_context.weight" in tensors,
        modality="img_mod_embed" in tensors,
        init=encoder.init,
    )


def inner_width(predictor: Tensors, where: str) -> int:
    """Width inside a predictor. Raises DataError when it does not tell."""
    fused = "predictor_embed.0.weight" in predictor
    return _shape(predictor, f"predictor_embed{'.2' if fused else ''}.weight", where)[0]


def require_table(table: Tensor, encoder: EncoderConfig, width: int, where: str) -> None:
    """Raise DataError when a `predictor_pos_embed` of this width is in use but not the encoder's table."""
    if encoder.positions != "rope" and grid_of(table, encoder.positions, width) != encoder.places.base:
        raise DataError(f"{where} has positions (predictor_pos_embed) that are no sine-cosine table of the encoder's")


def probe_of(tensors: Tensors, hints: Hints, where: str) -> ProbeConfig:
    """Architecture of an attentive probe. Raises DataError as `encoder_of`."""
    _, queries, width = _shape(tensors, "pooler.query_tokens", where, 3)
    hidden = _shape(tensors, "pooler.cross_attention_block.mlp.fc1.weight", where)[0]
    answers = tuple(name for name in ANTICIPATION if f"{name}_classifier.weight" in tensors)
    heads = [f"{name}_classifier.weight" for name in answers] or ["linear.weight"]
    if queries != max(len(answers), 1):
        raise DataError(
            f"{where} has a probe of {queries} queries and {len(heads)} classifiers, which is no known kind"
        )
    return ProbeConfig(
        width=width,
        classes=tuple(_shape(tensors, name, where)[0] for name in heads),
        answers=answers,
        heads=_heads(hints.heads, PROBE_HEADS, width, where, "heads"),
        depth=1 + blocks(tensors, "pooler.blocks", where),
        mlp_ratio=hidden / width,
    )


def mask_tokens_of(tensors: Tensors) -> int:
    """How many mask tokens a predictor has; 0 for one without."""
    return sum(bool(re.fullmatch(r"mask_tokens\.\d+", name)) for name in tensors)


def blocks(tensors: Tensors, prefix: str, where: str) -> int:
    """How many blocks there are below a name. Raises DataError unless they are numbered from 0 without a gap."""
    matches = (re.match(rf"{re.escape(prefix)}\.(\d+)\.", name) for name in tensors)
    found = {match[1] for match in matches if match}
    if odd := found - set(map(str, range(len(found)))):
        raise DataError(f"{where} has {len(found)} {prefix}, numbered not from 0 to {len(found) - 1}: {listed(odd)}")
    return len(found)


def named(config: EncoderConfig, file: str) -> EncoderConfig:
    """With frames and size of the published file of this name, if it is one of this architecture."""
    for entry in CATALOG.values():
        fits = (entry.encoder.width, entry.encoder.depth) == (config.width, config.depth)
        if fits and entry.source.file.rsplit("/", 1)[-1] == file:
            one = entry.encoder
            return replace(config, frames=one.frames, size=one.size, interpolate_from=one.interpolate_from)
    return config


def _levels(tensors: Tensors, depth: int, hints: Hints, where: str) -> tuple[int, ...]:
    count = len({name.split(".")[1] for name in tensors if name.startswith("norms_block.")})
    if hints.levels is not None or count == 0:
        return hints.levels or ()
    for usual in (LEVELS.get(depth, ()), tuple(range(depth)), (depth - 1,)):
        if len(usual) == count:
            return usual
    raise DataError(f"{where} has {count} supervised levels in {depth} blocks, not told which: give --levels 1,3,...")


def _published(
    width: int, depth: int, patch: int, tubelet: int, image_tokenizer: bool, positions: Positions
) -> Entry | None:
    """The published encoder of this shape; of several, the smaller frames."""
    shape = (width, depth, patch, tubelet, image_tokenizer, positions.kind)
    for entry in CATALOG.values():
        one = entry.encoder
        if shape == (one.width, one.depth, one.patch, one.tubelet, one.image_tokenizer, one.positions):
            return entry
    return None


def _clip(
    entry: Entry | None, positions: Positions, hints: Hints, patch: int, tubelet: int, where: str
) -> tuple[int, int, list[str]]:
    """Frames and size of the clips of training, and what of it is assumed."""
    if positions.base is not None:
        frames, size = positions.base.steps * tubelet, positions.base.rows * patch
        if (hints.frames or frames, hints.size or size) != (frames, size):
            raise DataError(f"{where} was trained on {frames} frames of {size} x {size}, as its positions tell")
        return frames, size, []
    frames, size = (64, 256) if entry is None else (entry.encoder.frames, entry.encoder.size)
    assumed = [
        f"{name} {usual}"
        for name, usual, told in (("frames", frames, hints.frames), ("size", size, hints.size))
        if told is None
    ]
    return hints.frames or frames, hints.size or size, assumed


def _heads(told: int | None, usual: int | None, width: int, where: str, name: str) -> int:
    heads = told or usual
    if heads is None or width % heads:
        flag = name.replace("_", "-")
        reason = "a width of no published model" if heads is None else f"which {heads} heads do not divide"
        raise DataError(f"{where} does not tell its attention heads, and has width {width}, {reason}: give --{flag}")
    return heads


def _shape(tensors: Tensors, name: str, where: str, *axes: int) -> tuple[int, ...]:
    """The shape of a tensor of so many axes, 2 if not given."""
    if name not in tensors:
        raise DataError(f"{where} holds no {name}: it is no model of a known kind")
    shape = tuple(tensors[name].shape)
    if len(shape) not in (axes or (2,)):
        wanted = " or ".join(map(str, axes or (2,)))
        raise DataError(f"{where} has {name} of shape {list(shape)}, expected {wanted} axes: it is no known model")
    return shape
