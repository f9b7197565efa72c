"""Modules without memory: to know the names and shapes that an architecture has, and to fill them with weights.

They are built on torch's `meta` device, so that two billion weights are neither drawn nor stored before the saved ones
take their place.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from jepa.checkpoints.weights import require_fit, require_values
from jepa.errors import DataError
from jepa.models.action_predictor import ActionPredictor, ActionPredictorConfig
from jepa.models.encoder import Encoder, EncoderConfig
from jepa.models.predictor import Predictor, PredictorConfig
from jepa.models.probes import ProbeConfig, build_probe

Module = TypeVar("Module", bound=nn.Module)
Parts = Mapping[str, Mapping[str, Tensor]]


def blank(build: Callable[[], Module], where: str = "the source") -> Module:
    """A module on the `meta` device. Raises DataError, naming `where`, when its numbers are beyond any tensor."""
    try:
        with torch.device("meta"):
            return build()
    except (RuntimeError, OverflowError, TypeError) as error:  # torch knows all three for sizes beyond its numbers
        reason = str(error).splitlines()[0][:120]
        raise DataError(f"{where} describes an architecture that cannot be built ({reason})") from error


def filled(module: Module, tensors: Mapping[str, Tensor]) -> Module:
    """A blank module with these weights as float32, frozen, in evaluation mode; names and shapes must fit."""
    state = {name: tensor.float() for name, tensor in tensors.items()}
    module.load_state_dict(state, assign=True)
    return module.eval().requires_grad_(False)


def make_predictor(
    predictor: PredictorConfig | ActionPredictorConfig, encoder: EncoderConfig, tensors: Mapping[str, Tensor]
) -> Predictor | ActionPredictor:
    """A predictor of either kind with initial weights, placed as its encoder, as wide as its saved output."""
    if isinstance(predictor, ActionPredictorConfig):
        return ActionPredictor(predictor)
    output = tensors.get("predictor_proj.weight")
    width = encoder.width * predictor.fused_levels if output is None or output.ndim != 2 else output.shape[0]
    return Predictor(predictor, context_width=encoder.width, target_width=width, places=encoder.places)


def require_parts(
    where: str,
    parts: Parts,
    encoder: EncoderConfig | None,
    predictor: PredictorConfig | ActionPredictorConfig | None,
    probes: tuple[ProbeConfig, ...],
) -> None:
    """Check that the tensors of each part (`encoder`, `predictor`, `probes.0`, ...) are those of its architecture.

    Raises:
        DataError: a tensor is unknown, missing or of another shape, all of them counted and some named; or it is none
            of weights, as `require_values` tells.
    """
    for part, tensors in parts.items():
        require_values(tensors, where)
        wanted = blank(partial(_module, part, tensors, encoder, predictor, probes), where).state_dict()
        require_fit(tensors, wanted, where, part)


def _module(
    part: str,
    tensors: Mapping[str, Tensor],
    encoder: EncoderConfig | None,
    predictor: PredictorConfig | ActionPredictorConfig | None,
    probes: tuple[ProbeConfig, ...],
) -> nn.Module:
    if part.startswith("probes."):
        return build_probe(probes[int(part.split(".")[1])])
    assert encoder is not None
    if part != "predictor":
        return Encoder(encoder)
    assert predictor is not None
    return make_predictor(predictor, encoder, tensors)
