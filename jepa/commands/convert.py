"""Converts weights between this package, HuggingFace and the official files of V-JEPA 1, 2, 2.1, 2-AC and I-JEPA,
probes included. No value is changed: the way there and back gives the same bits.

The source is whatever `jepa.load_encoder` takes. Nothing in it is run. Every tensor must have its place; what a target
has no place for is named with the reason. Details: docs/weights.md.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from jepa.checkpoints.card import norms_line
from jepa.checkpoints.convert import Conversion, convert
from jepa.checkpoints.weights import Hints, listed
from jepa.config import to_dict
from jepa.errors import ConfigError
from jepa.models.place import PositionKind

SUMMARY = "Convert weights between this package, HuggingFace and the official files"
EXAMPLE = "jepa convert vitl.pt weights/vitl --to jepa"
POSITIONAL = ("src", "dst")


@dataclass(frozen=True, kw_only=True)
class Config:
    src: str
    """Run folder, weights folder, official .pt or .pth.tar file, HuggingFace folder, or a name on its hub."""
    dst: Path
    """Folder to write, or for --to official a .pt file. An earlier output of this verb is replaced."""
    to: Literal["jepa", "huggingface", "official"]
    """`jepa`: a folder for this package; `huggingface`: one for `from_pretrained`; `official`: a .pt file."""
    probe: str | None = None
    """Put in the probe of this file or folder too; with --to huggingface it makes a VJEPA2ForVideoClassification."""
    number: int = 0
    """Which of the probes in --probe."""
    heads: int | None = None
    """Attention heads of the encoder (or probe), if an official file of an unusual width leaves them open."""
    predictor_heads: int | None = None
    """Attention heads of the predictor, likewise."""
    frames: int | None = None
    """Frames of the clips it is to be used with, if not those of training; for rotary positions."""
    size: int | None = None
    """Height and width of these clips, likewise."""
    positions: PositionKind | None = None
    """Kind of positions, if an official file leaves it open."""
    levels: tuple[int, ...] | None = None
    """0-based numbers of the supervised blocks, if an official file of an unusual depth leaves them open."""
    json: bool = False
    """Print the result as JSON."""

    def __post_init__(self) -> None:
        for name in ("heads", "predictor_heads", "frames", "size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}, expected 1 or more")
        if self.number and self.probe is None:
            raise ConfigError(f"number is {self.number}, but there is no --probe of whose probes it could be one")


def run(config: Config) -> int:
    """Convert, and print what became of the tensors."""
    hints = Hints(
        heads=config.heads,
        predictor_heads=config.predictor_heads,
        frames=config.frames,
        size=config.size,
        positions=config.positions,
        levels=config.levels,
    )
    done = convert(
        config.src, config.dst.expanduser(), config.to, probe=config.probe, number=config.number, hints=hints
    )
    print(json.dumps(to_dict(asdict(done)), indent=2) if config.json else describe(done))
    return 0


def describe(done: Conversion) -> str:
    """The result in words."""
    lines = [f"{done.tensors} tensors ({', '.join(done.parts)}): {done.out}"]
    lines += [f"not kept: {name}: {why}" for name, why in sorted(done.dropped.items())]
    if done.assumed:
        lines.append(f"assumed, as the source does not tell: {', '.join(done.assumed)}")
    if done.mask_tokens:
        lines.append(f"norms of the mask tokens: {norms_line(done.mask_tokens)}")
    if done.not_finite:
        lines.append(f"NaN or infinity in {len(done.not_finite)} tensors: {listed(done.not_finite)}")
    if done.licence:
        lines.append(f"licence of the published weights of this family: {done.licence}")
    return "\n".join(lines)
