"""The published encoders by name: architecture, predictor, where the weights are, under which licence.

A table, as `presets` is one of sizes. Sources: the papers of the releases, and their released code. What a weights file
does not tell by the shapes of its tensors (heads, pairing of the rotary frequencies, levels, frames) stands here.

Depths of the supervised levels are those of the released code; at depth 48 it has 37 where equal spacing has 35.
"""

from dataclasses import dataclass, replace

from jepa.models.encoder import EncoderConfig
from jepa.models.place import PositionKind
from jepa.models.predictor import PredictorConfig
from jepa.models.presets import PREDICTOR, SIZES, SizeName

HOST = "https://dl.fbaipublicfiles.com"
"""Meta's public host; `Source.file` is a path on it."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

LEVELS: dict[int, tuple[int, ...]] = {
    12: (2, 5, 8, 11),
    24: (5, 11, 17, 23),
    40: (9, 19, 29, 39),
    48: (11, 23, 37, 47),
}
"""Supervised levels of V-JEPA 2.1 by depth, 0-based."""

ROPE_BASE = 256
"""Height and width in pixels over which V-JEPA 2.1 stretches the positions of every resolution."""

IJEPA_HEADS = {SIZES["giant"].width: 16}
"""Attention heads by width where I-JEPA's released code has others than `SIZES`."""


@dataclass(frozen=True)
class Release:
    """What was published together."""

    title: str
    paper: str
    """arXiv number."""
    licence: str
    """Of the official files, as their repository states it."""
    hub_licence: str | None = None
    """Of some copies on the HuggingFace hub, where it is another one."""

    @property
    def licences(self) -> str:
        """Every licence that a file may be under, in words."""
        return f"{self.licence} or {self.hub_licence}" if self.hub_licence else self.licence


VJEPA1 = Release("V-JEPA 1", "2404.08471", "CC-BY-NC-4.0")
VJEPA2 = Release("V-JEPA 2", "2506.09985", "MIT", "Apache-2.0")
VJEPA2_AC = replace(VJEPA2, title="V-JEPA 2-AC")
VJEPA2_1 = Release("V-JEPA 2.1", "2603.14482", "MIT")
IJEPA = Release("I-JEPA", "2301.08243", "CC-BY-NC-4.0")


@dataclass(frozen=True)
class Source:
    """Where weights come from."""

    release: Release
    file: str
    """Path of the official file below `HOST`."""
    hub: str | None = None
    """Name on the HuggingFace hub, if it is there."""

    @property
    def paper(self) -> str:
        """arXiv number."""
        return self.release.paper

    @property
    def licence(self) -> str:
        """Of the official file."""
        return self.release.licence


@dataclass(frozen=True)
class Entry:
    """A published encoder, and the predictor it was trained with."""

    encoder: EncoderConfig
    predictor: PredictorConfig | None
    source: Source
    target_width: int | None = None
    """E, values that the predictor predicts per token; none for the encoder's width times the predictor's levels."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    """Per channel, of pixels between 0 and 1, subtracted before the encoder."""
    std: tuple[float, ...] = IMAGENET_STD
    """Per channel, divided by before the encoder."""

    @property
    def predicted_width(self) -> int:
        """E, values that the predictor predicts per token."""
        levels = 1 if self.predictor is None else self.predictor.fused_levels
        return self.target_width or self.encoder.width * levels


def usual_heads(width: int, positions: PositionKind) -> int | None:
    """Attention heads of the encoders of this width in the released code; none if it has no such width."""
    if positions == "sincos2d" and width in IJEPA_HEADS:
        return IJEPA_HEADS[width]
    return next((size.heads for name, size in SIZES.items() if size.width == width and name != "nano"), None)


def _size(name: SizeName) -> EncoderConfig:
    row = SIZES[name]
    return EncoderConfig(width=row.width, depth=row.depth, heads=row.heads, mlp_ratio=row.mlp_ratio)


def _vjepa1(name: SizeName, size: int, file: str) -> Entry:
    encoder = replace(_size(name), frames=16, size=size, positions="sincos", interpolate_from=size, init="flat")
    predictor = replace(PREDICTOR, heads=encoder.heads, mask_tokens=2, init="flat")
    return Entry(encoder, predictor, Source(VJEPA1, f"jepa/{file}/{file}.pth.tar"))


def _vjepa2(name: SizeName, size: int, file: str, hub: str) -> Entry:
    encoder = replace(_size(name), frames=64, size=size, rope="tiled")
    source = Source(VJEPA2, f"vjepa2/{file}.pt", f"facebook/vjepa2-{hub}")
    return Entry(encoder, replace(PREDICTOR, mask_tokens=10), source)


def _vjepa2_1(name: SizeName, file: str, *, distilled: bool) -> Entry:
    size = _size(name)
    encoder = replace(
        size, frames=64, size=384, interpolate_from=ROPE_BASE, levels=LEVELS[size.depth], image_tokenizer=True
    )
    levels = 1 if distilled else len(encoder.levels)
    predictor = replace(
        PREDICTOR,
        depth=12 if distilled else 24,
        mask_tokens=8,
        fused_levels=levels,
        context_head=True,
        modality=True,
    )
    # The teacher of the distilled ones, whose tokens their predictors predict, is the gigantic one.
    width = SIZES["gigantic"].width if distilled else None
    return Entry(encoder, predictor, Source(VJEPA2_1, f"vjepa2/{file}.pt"), width)


def _ijepa(name: SizeName, size: int, patch: int, file: str, hub: str) -> Entry:
    base = _size(name)
    encoder = replace(
        base,
        heads=IJEPA_HEADS.get(base.width, base.heads),
        patch=patch,
        tubelet=1,
        frames=1,
        size=size,
        positions="sincos2d",
        interpolate_from=size,
        init="flat",
    )
    predictor = replace(
        PREDICTOR,
        heads=encoder.heads,
        depth=16 if name == "giant" else 12,
        mask_tokens=1,
        mask_token_init="normal",
        init="flat",
    )
    return Entry(encoder, predictor, Source(IJEPA, f"ijepa/{file}.pth.tar", f"facebook/{hub}"))


CATALOG: dict[str, Entry] = {
    "vjepa1_vit_large_patch16_224": _vjepa1("large", 224, "vitl16"),
    "vjepa1_vit_huge_patch16_224": _vjepa1("huge", 224, "vith16"),
    "vjepa1_vit_huge_patch16_384": _vjepa1("huge", 384, "vith16-384"),
    "vjepa2_vit_large_patch16_256": _vjepa2("large", 256, "vitl", "vitl-fpc64-256"),
    "vjepa2_vit_huge_patch16_256": _vjepa2("huge", 256, "vith", "vith-fpc64-256"),
    "vjepa2_vit_giant_patch16_256": _vjepa2("giant", 256, "vitg", "vitg-fpc64-256"),
    "vjepa2_vit_giant_patch16_384": _vjepa2("giant", 384, "vitg-384", "vitg-fpc64-384"),
    "vjepa2_1_vit_base_patch16_384": _vjepa2_1("base", "vjepa2_1_vitb_dist_vitG_384", distilled=True),
    "vjepa2_1_vit_large_patch16_384": _vjepa2_1("large", "vjepa2_1_vitl_dist_vitG_384", distilled=True),
    "vjepa2_1_vit_giant_patch16_384": _vjepa2_1("giant", "vjepa2_1_vitg_384", distilled=False),
    "vjepa2_1_vit_gigantic_patch16_384": _vjepa2_1("gigantic", "vjepa2_1_vitG_384", distilled=False),
    "ijepa_vit_huge_patch14_224": _ijepa("huge", 224, 14, "IN1K-vit.h.14-300e", "ijepa_vith14_1k"),
    "ijepa_vit_huge_patch16_448": _ijepa("huge", 448, 16, "IN1K-vit.h.16-448px-300e", "ijepa_vith16_1k"),
    "ijepa_vit_giant_patch16_224": _ijepa("giant", 224, 16, "IN22K-vit.g.16-600e", "ijepa_vitg16_22k"),
}
