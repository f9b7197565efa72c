"""The published families of models: how to know one by its architecture, and what holds for all its files.

A row of `FAMILIES` is all that tells one family from another once its weights are read. A model of our own that has the
architecture of a family is not of its licence, so the licence is told only of files that came from there. Weights that
fit no family in full are read all the same, and get neither family nor licence.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from jepa.models.action_predictor import ActionPredictorConfig
from jepa.models.catalog import (
    IJEPA,
    IMAGENET_MEAN,
    IMAGENET_STD,
    VJEPA1,
    VJEPA2,
    VJEPA2_1,
    VJEPA2_AC,
    Release,
)
from jepa.models.encoder import EncoderConfig
from jepa.models.predictor import PredictorConfig

AnyPredictor = PredictorConfig | ActionPredictorConfig | None
Evaluated = Literal["target", "context"]


@dataclass(frozen=True)
class Family:
    """What its files have in common."""

    release: Release
    """Title, paper and licences."""
    prefix: str
    """Before every tensor of an official file."""
    fits: Callable[[EncoderConfig, AnyPredictor], str | None]
    """Nothing ("") for an architecture that the code of this family computes, the reason for one that is nearly of
    it, none for all others."""
    clip: Mapping[str, Any] = field(default_factory=dict)
    """How the clips of training were cut."""


_FIXED = "fixed positions of the authors' code are interpolated from those of the crop size (model.interpolate_from)"


def _vjepa1(encoder: EncoderConfig, predictor: AnyPredictor) -> str | None:
    if encoder.positions != "sincos":
        return None
    return "" if encoder.interpolate_from == encoder.size else _FIXED


def _ijepa(encoder: EncoderConfig, predictor: AnyPredictor) -> str | None:
    if encoder.positions != "sincos2d":
        return None
    if not encoder.tubelet == encoder.frames == 1:
        return "I-JEPA has images, no clips"
    return "" if encoder.interpolate_from == encoder.size else _FIXED


def _vjepa2_1(encoder: EncoderConfig, predictor: AnyPredictor) -> str | None:
    if encoder.positions != "rope" or not (encoder.levels or encoder.image_tokenizer):
        return None
    if not (encoder.levels and encoder.image_tokenizer):
        return "V-JEPA 2.1 has both supervised levels and an image tokenizer"
    stretched = encoder.rope == "interleaved" and encoder.interpolate_from is not None
    return "" if stretched else "V-JEPA 2.1 has interleaved, interpolated rotary positions"


def _tiled(encoder: EncoderConfig) -> str | None:
    if encoder.positions != "rope" or encoder.levels or encoder.image_tokenizer:
        return None
    counted = encoder.rope == "tiled" and encoder.interpolate_from is None
    why = "rotary positions of V-JEPA 2 are tiled and not interpolated, and model.rope is chosen when training begins"
    return "" if counted else why


def _vjepa2(encoder: EncoderConfig, predictor: AnyPredictor) -> str | None:
    return None if isinstance(predictor, ActionPredictorConfig) else _tiled(encoder)


def _vjepa2_ac(encoder: EncoderConfig, predictor: AnyPredictor) -> str | None:
    return _tiled(encoder) if isinstance(predictor, ActionPredictorConfig) else None


FAMILIES: dict[str, Family] = {
    "vjepa1": Family(VJEPA1, "module.backbone.", _vjepa1, {"stride": 4}),
    "vjepa2": Family(VJEPA2, "module.backbone.", _vjepa2, {"fps": 4.0}),
    "vjepa2_1": Family(VJEPA2_1, "module.backbone.", _vjepa2_1, {"fps": 4.0}),
    "vjepa2_ac": Family(VJEPA2_AC, "module.", _vjepa2_ac, {"fps": 4.0}),
    "ijepa": Family(IJEPA, "module.", _ijepa),
}


def family_of(encoder: EncoderConfig, predictor: AnyPredictor) -> tuple[str | None, str]:
    """The family whose code computes what this architecture does, and if there is none, why."""
    if encoder.layer_scale is not None or encoder.position_scale != 1:
        return None, "no published model scales layers or positions"
    answers = {name: family.fits(encoder, predictor) for name, family in FAMILIES.items()}
    name = next((name for name, answer in answers.items() if answer == ""), None)
    return name, "" if name else next(filter(None, answers.values()), "no published model is built like it")


def facts_of(
    file: str,
    source: Literal["official", "huggingface"],
    encoder: EncoderConfig | None,
    predictor: AnyPredictor,
    evaluate: Evaluated = "target",
) -> dict[str, Any]:
    """What a user of published weights needs: `evaluate`, `clip`, `normalisation`, `source`; of a probe only that.

    Args:
        file: name of the file or folder they came in.
        source: format of it.
        encoder: architecture; none for a probe alone.
        predictor: its predictor, if there is one.
        evaluate: the encoder that is meant to be used.
    """
    came = {"file": file, "format": source}
    if encoder is None:
        return {"source": came}
    name, _ = family_of(encoder, predictor)
    family = FAMILIES[name] if name else None
    return {
        "evaluate": evaluate,
        "clip": {"frames": encoder.frames, "size": encoder.size, **(family.clip if family else {})},
        "normalisation": {"mean": IMAGENET_MEAN, "std": IMAGENET_STD},
        "source": {**came, "family": name, "licence": family.release.licences} if family else came,
    }
