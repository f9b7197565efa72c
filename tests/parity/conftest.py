"""The authors' modules, from the package `cc-vjepa2`, a packaged fork of the released V-JEPA 2 code."""

import sys
import warnings
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
import timm.layers
import torch
from torch import nn


@pytest.fixture(scope="session")
def official() -> SimpleNamespace:
    """Its modules by name: `vision_transformer`, `predictor`, `ac_predictor`, `attentive_pooler`, `wrappers`."""
    # It imports timm's layers from where they lay some years ago.
    sys.modules.setdefault("timm.models.layers", timm.layers)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from vjepa2.models import ac_predictor, attentive_pooler, predictor, vision_transformer
        from vjepa2.utils import wrappers
    return SimpleNamespace(
        vision_transformer=vision_transformer,
        predictor=predictor,
        ac_predictor=ac_predictor,
        attentive_pooler=attentive_pooler,
        wrappers=wrappers,
    )


@pytest.fixture(autouse=True)
def _old_kernel_switch() -> Iterator[None]:
    """The fork chooses attention kernels in a way that torch warns about."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*sdp_kernel.*", category=FutureWarning)
        yield


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def randomised() -> Callable[[nn.Module], nn.Module]:
    """Weights far from the initial ones, so that nothing that is multiplied by zero or one hides."""

    def randomise(module: nn.Module) -> nn.Module:
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
        return module.eval()

    return randomise
