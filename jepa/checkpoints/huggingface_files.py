"""Writing HuggingFace folders that `from_pretrained` loads: the configuration and the tensors by their names.

What their classes cannot hold is refused, with the reason; what they merely have no place for (the context encoder) is
left out and named.
"""

import json
import math
from typing import Any

import torch
from torch import Tensor

from jepa.checkpoints import keymaps
from jepa.checkpoints.families import FAMILIES, family_of
from jepa.checkpoints.huggingface import FIXED
from jepa.checkpoints.weights import Weights
from jepa.errors import ConfigError
from jepa.models.catalog import IMAGENET_MEAN, IMAGENET_STD
from jepa.models.encoder import EncoderConfig
from jepa.models.positions import sincos_positions
from jepa.models.predictor import PredictorConfig
from jepa.models.probes import ProbeConfig

Files = tuple[dict[str, Any], dict[str, Tensor], dict[str, str]]
"""config.json, tensors, and what was left out with the reason."""


def huggingface_files(weights: Weights) -> Files:
    """Configuration and tensors of the class for these weights.

    Raises:
        ConfigError: transformers has no class for them, or its class computes something else.
    """
    if weights.encoder is None:
        raise ConfigError(f"{weights.where} holds a probe alone, and VJEPA2ForVideoClassification has its encoder too")
    family, why = family_of(weights.encoder, weights.predictor)
    if family == "vjepa2":
        return _vjepa2(weights, weights.encoder)
    if family == "ijepa":
        return _ijepa(weights, weights.encoder)
    reason = f"for {FAMILIES[family].release.title}" if family else f"for this architecture ({why})"
    raise ConfigError(
        f"{weights.where}: transformers has no class {reason}; use --to jepa{' or --to official' * bool(family)}"
    )


def preprocessor(weights: Weights) -> tuple[str, dict[str, Any]]:
    """Name and content of the file that `AutoVideoProcessor` and `AutoImageProcessor` read."""
    encoder = weights.encoder
    facts = weights.facts.get("normalisation", {"mean": IMAGENET_MEAN, "std": IMAGENET_STD})
    assert encoder is not None
    common = {
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "rescale_factor": 1 / 255,
        "image_mean": list(facts["mean"]),
        "image_std": list(facts["std"]),
        "resample": 2,
    }
    square = {"height": encoder.size, "width": encoder.size}
    if encoder.positions == "sincos2d":
        return "preprocessor_config.json", {"image_processor_type": "ViTImageProcessor", "size": square, **common}
    shorter = {"shortest_edge": int(encoder.size * 256 / 224)}
    return "video_preprocessor_config.json", {
        "video_processor_type": "VJEPA2VideoProcessor",
        "do_center_crop": True,
        "crop_size": square,
        "size": shorter,
        **common,
    }


def _vjepa2(weights: Weights, encoder: EncoderConfig) -> Files:
    predictor = weights.predictor
    if not isinstance(predictor, PredictorConfig):
        raise ConfigError(f"{weights.where} holds no predictor, and VJEPA2Model has one")
    state = weights.tensors("predictor.")
    width = state["predictor_proj.weight"].shape[0]
    if predictor.fused_levels > 1 or predictor.context_head or predictor.modality or width != encoder.width:
        raise ConfigError(
            f"{weights.where} has a predictor of {width} outputs for an encoder of width {encoder.width}, or with more "
            "heads than VJEPA2Model has"
        )
    tensors = keymaps.to_theirs(keymaps.VJEPA2_ENCODER, encoder.depth, weights.tensors(f"{weights.evaluated}."))
    tensors |= keymaps.to_theirs(keymaps.VJEPA2_PREDICTOR, predictor.depth, state)
    tensors[keymaps.MASK_TOKENS] = torch.stack([state[f"mask_tokens.{n}"] for n in range(predictor.mask_tokens)])
    config = {
        "architectures": ["VJEPA2Model"],
        "model_type": "vjepa2",
        "patch_size": encoder.patch,
        "crop_size": encoder.size,
        "frames_per_clip": encoder.frames,
        "tubelet_size": encoder.tubelet,
        "hidden_size": encoder.width,
        "in_chans": encoder.channels,
        "num_attention_heads": encoder.heads,
        "num_hidden_layers": encoder.depth,
        "mlp_ratio": _ratio(encoder.width, encoder.mlp_ratio),
        "drop_path_rate": 0.0,
        "pred_hidden_size": predictor.width,
        "pred_num_attention_heads": predictor.heads,
        "pred_num_hidden_layers": predictor.depth,
        "pred_num_mask_tokens": predictor.mask_tokens,
        "pred_mlp_ratio": _ratio(predictor.width, predictor.mlp_ratio),
        **_common(tensors),
    }
    dropped = _left_out(weights, "VJEPA2Model")
    if weights.probes:
        _require_probe(weights, encoder, weights.probes[0])
        probe = weights.tensors("probes.0.")
        depth = weights.probes[0].depth - 1
        tensors = {f"vjepa2.{name}": tensor for name, tensor in tensors.items()}
        tensors |= keymaps.to_theirs(keymaps.VJEPA2_PROBE, depth, probe)
        tensors[keymaps.QUERY_TOKENS] = probe[keymaps.QUERY_TOKENS]
        labels = weights.facts.get("classes") or [f"LABEL_{n}" for n in range(weights.probes[0].classes[0])]
        config |= {
            "architectures": ["VJEPA2ForVideoClassification"],
            "num_pooler_layers": depth,
            "id2label": {str(number): label for number, label in enumerate(labels)},
            "label2id": {label: number for number, label in enumerate(labels)},
        }
        dropped |= {f"probes.{n}": "the class has one probe" for n in range(1, len(weights.probes))}
    return config, _alone(tensors), dropped


def _ijepa(weights: Weights, encoder: EncoderConfig) -> Files:
    state = weights.tensors(f"{weights.evaluated}.")
    state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"].squeeze(2)
    tensors = keymaps.to_theirs(keymaps.IJEPA_ENCODER, encoder.depth, state)
    grid = encoder.places.base
    if grid is None:
        raise ConfigError(f"{weights.where} counts its positions on, and IJepaModel interpolates (interpolate_from)")
    tensors[keymaps.IJEPA_POSITIONS] = sincos_positions(grid, encoder.width, "sincos2d").unsqueeze(0)
    config = {
        "architectures": ["IJepaModel"],
        "model_type": "ijepa",
        "hidden_size": encoder.width,
        "num_hidden_layers": encoder.depth,
        "num_attention_heads": encoder.heads,
        "intermediate_size": state["blocks.0.mlp.fc1.weight"].shape[0],
        "image_size": encoder.size,
        "patch_size": encoder.patch,
        "num_channels": encoder.channels,
        **_common(tensors),
    }
    dropped = _left_out(weights, "IJepaModel")
    if weights.predictor is not None:
        dropped["predictor"] = "IJepaModel has none"
    return config, _alone(tensors), dropped


def _common(tensors: dict[str, Tensor]) -> dict[str, Any]:
    kind = str(next(iter(tensors.values())).dtype).removeprefix("torch.")
    # transformers 4 reads torch_dtype, 5 reads dtype.
    return {**FIXED, "torch_dtype": kind, "dtype": kind}


def _left_out(weights: Weights, name: str) -> dict[str, str]:
    other = "encoder" if weights.evaluated == "target_encoder" else "target_encoder"
    return {other: f"{name} has one encoder, this is {weights.evaluated}"} if other in weights.parts() else {}


def _require_probe(weights: Weights, encoder: EncoderConfig, probe: ProbeConfig) -> None:
    if probe.answers:
        raise ConfigError(f"{weights.where} has a probe with several answers, the class of transformers has one")
    if (probe.width, probe.heads) != (encoder.width, encoder.heads) or probe.mlp_ratio != 4:
        raise ConfigError(
            f"the probe has width {probe.width}, {probe.heads} heads and MLP ratio {probe.mlp_ratio}; the class of "
            f"transformers gives it those of the encoder in {weights.where}, {encoder.width} and {encoder.heads}, and "
            "ratio 4"
        )


def _alone(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies that share no memory, as the file format wants them."""
    return {name: tensor.contiguous().clone() for name, tensor in tensors.items()}


def _ratio(width: int, ratio: float) -> float:
    """The ratio from which they, rounding down, get our hidden width."""
    hidden = round(width * ratio)
    found = hidden / width
    return found if int(width * found) == hidden else math.nextafter(found, math.inf)


def as_json(config: dict[str, Any]) -> bytes:
    """As transformers writes it."""
    return (json.dumps(config, indent=2, sort_keys=True) + "\n").encode()
