"""The published families of models: how to know one by its architecture, and what holds for all its files.

The weights of V-JEPA 1 and I-JEPA may not be used commercially (CC-BY-NC 4.0); those of V-JEPA 2 and 2.1 are MIT or
Apache-2.0. A model of our own that has the architecture of a family is not of its licence, so the licence is told only
of files that came from there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from jepa.models.action_predictor import ActionPredictorConfig
from jepa.models.encoder import EncoderConfig
from jepa.models.predictor import PredictorConfig

FamilyName = Literal["vjepa1", "vjepa2", "vjepa2_1", "vjepa2_ac", "ijepa"]


@dataclass(frozen=True)
class Family:
    """What its files have in common."""

    title: str
    paper: str
    licence: str
    """Of the published weights."""
    prefix: str
    """Before every tensor of an official file."""
    clip: Mapping[str, Any] = field(default_factory=dict)
    """How the clips of training were cut."""


FAMILIES: dict[FamilyName, Family] = {
    "vjepa1": Family("V-JEPA", "arXiv 2404.08471", "CC-BY-NC-4.0", "module.backbone.", {"stride": 4}),
    "vjepa2": Family("V-JEPA 2", "arXiv 2506.09985", "MIT or Apache-2.0", "module.backbone.", {"fps": 4.0}),
    "vjepa2_1": Family("V-JEPA 2.1", "arXiv 2603.14482", "MIT", "module.backbone.", {"fps": 4.0}),
    "vjepa2_ac": Family("V-JEPA 2-AC", "arXiv 2506.09985", "MIT or Apache-2.0", "module.", {"fps": 4.0}),
    "ijepa": Family("I-JEPA", "arXiv 2301.08243", "CC-BY-NC-4.0", "module."),
}


def family_of(
    encoder: EncoderConfig, predictor: PredictorConfig | ActionPredictorConfig | None
) -> tuple[FamilyName | None, str]:
    """The family whose code computes what this architecture does, and if there is none, why."""
    if encoder.layer_scale is not None or encoder.position_scale != 1:
        return None, "no published model scales layers or positions"
    if encoder.positions == "sincos2d":
        return ("ijepa", "") if encoder.tubelet == encoder.frames == 1 else (None, "I-JEPA has images, no clips")
    if encoder.positions == "sincos":
        return "vjepa1", ""
    if encoder.levels and encoder.image_tokenizer:
        if encoder.rope == "interleaved" and encoder.interpolate_from is not None:
            return "vjepa2_1", ""
        return None, "V-JEPA 2.1 has interleaved, interpolated rotary positions"
    if encoder.levels or encoder.image_tokenizer:
        return None, "V-JEPA 2.1 has both supervised levels and an image tokenizer"
    if encoder.rope != "tiled" or encoder.interpolate_from is not None:
        return None, "rotary positions of V-JEPA 2 are tiled and not interpolated (model.rope)"
    return ("vjepa2_ac" if isinstance(predictor, ActionPredictorConfig) else "vjepa2"), ""
