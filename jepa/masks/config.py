"""One mask configuration: its kind, and the numbers of that kind.

All kinds share one flat dataclass, so that a YAML list can mix them; a field says which kinds read it, and giving it
to another kind is an error. Lengths and areas are shares of the token grid, so a configuration fits every clip size.
"""

from dataclasses import dataclass, fields
from typing import Literal

from jepa.errors import ConfigError

Kind = Literal["multiblock", "tube", "causal", "ijepa"]

_READS: dict[Kind, tuple[str, ...]] = {
    "multiblock": (
        "blocks", "spatial", "temporal", "aspect", "context_time", "max_keep", "complement", "inverse",
    ),
    "tube": ("ratio",),
    "causal": ("context_time", "target_time"),
    "ijepa": ("blocks", "spatial", "aspect", "context_block", "min_keep"),
}  # fmt: skip
"""The fields that each kind reads."""


@dataclass(frozen=True)
class MaskConfig:
    """One mask: the encoder sees its context, the predictor fills in its target."""

    kind: Kind = "multiblock"
    """`multiblock`: the target is the union of a few blocks of space and time (V-JEPA). `tube`: the same random patches
    at every step (VideoMAE, V-JEPA 1). `causal`: the first steps are seen, later ones predicted. `ijepa`: blocks of the
    frame, each predicted by itself (I-JEPA)."""
    blocks: int | None = None
    """Of multiblock and ijepa: number of target blocks; none for 8 and 4."""
    spatial: tuple[float, float] | None = None
    """Of multiblock and ijepa: share of a frame's tokens that a target block covers, drawn in this range; none for
    0.15, and 0.15 to 0.2."""
    temporal: tuple[float, float] = (1.0, 1.0)
    """Of multiblock: share of the steps that a block covers, drawn in this range."""
    aspect: tuple[float, float] = (0.75, 1.5)
    """Of multiblock and ijepa: height over width of a target block, drawn in this range."""
    context_time: tuple[float, float] | None = None
    """Of multiblock and causal: share of the steps, from the first, in which the context lies, drawn in this range,
    once per batch (multiblock) or clip (causal); all later tokens are none of the context. None for all steps, and for
    the first half."""
    target_time: tuple[float, float] = (0.0, 1.0)
    """Of causal: the part of the clip, from and to as shares of its steps, of which the target is what lies behind the
    context."""
    max_keep: int | None = None
    """Of multiblock: context tokens at most; none for no limit."""
    complement: Literal["target", "context"] | None = None
    """Of multiblock: `target`: all that is not kept as context is predicted. `context`: all that is not predicted is
    seen. None to leave tokens that are neither."""
    inverse: bool = False
    """Of multiblock: see the blocks and predict what they leave."""
    ratio: float = 0.9
    """Of tube: share of the patches that is predicted."""
    context_block: tuple[float, float] = (0.85, 1.0)
    """Of ijepa: share of a frame's tokens that the square block covers in which the context lies, drawn in this
    range."""
    min_keep: int = 10
    """Of ijepa: a clip with no more context tokens than this is drawn again; less on grids of a few tokens."""

    def __post_init__(self) -> None:
        reads = _READS[self.kind]
        for field in fields(self):
            if field.name not in ("kind", *reads) and getattr(self, field.name) != field.default:
                raise ConfigError(f"{field.name} is not read by kind {self.kind}, which reads {', '.join(reads)}")
        if self.blocks is not None and self.blocks < 1:
            raise ConfigError(f"a mask needs at least one block, got {self.blocks}")
        for name in ("spatial", "temporal", "aspect", "context_time", "context_block"):
            low, high = getattr(self, name) or (1.0, 1.0)
            if not 0 < low <= high or (name != "aspect" and high > 1):
                bound = "" if name == "aspect" else " <= 1"
                raise ConfigError(f"mask {name} range is ({low}, {high}), expected 0 < low <= high{bound}")
        if not 0 <= self.target_time[0] < self.target_time[1] <= 1:
            raise ConfigError(f"mask target_time is {self.target_time}, expected 0 <= from < to <= 1")
        if not 0 < self.ratio < 1:
            raise ConfigError(f"mask ratio is {self.ratio}, expected a number between 0 and 1")
        if self.max_keep is not None and self.max_keep < 1:
            raise ConfigError(f"mask max_keep is {self.max_keep}, expected at least 1")
        if self.min_keep < 0:
            raise ConfigError(f"mask min_keep is {self.min_keep}, expected at least 0")
        if self.max_keep is not None and self.complement == "context":
            raise ConfigError("mask max_keep has no effect with complement: context; leave one of them out")


SHORT_RANGE = MaskConfig(blocks=8, spatial=(0.15, 0.15))
LONG_RANGE = MaskConfig(blocks=2, spatial=(0.7, 0.7))
IMAGE = MaskConfig(blocks=10, spatial=(0.15, 0.15))
"""For images beside videos, as in V-JEPA 2.1."""
