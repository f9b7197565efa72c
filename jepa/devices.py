"""Where tensors are computed: one spelling of the device for all verbs.

`auto | cpu | gpu` is all a user says. Which GPU of several it is, is the business of the scheduler or of
CUDA_VISIBLE_DEVICES, so that a configuration means the same on every machine. A GPU is CUDA or, on a Mac, MPS; the
`type` of what comes back is also Lightning's name for it.
"""

from typing import Literal

import torch

from jepa.errors import ConfigError

DeviceName = Literal["auto", "cpu", "gpu"]


def choose_device(wanted: DeviceName, option: str = "device") -> torch.device:
    """The device to compute on.

    Args:
        wanted: `auto` takes the GPU if there is one.
        option: how the user spells the setting; for the message.

    Raises:
        ConfigError: a GPU is asked for, and there is none.
    """
    gpu = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else None
    if wanted == "gpu" and gpu is None:
        raise ConfigError(f"{option} is gpu, but torch sees none (try `jepa doctor`): set {option} to cpu or auto")
    return torch.device("cpu" if wanted == "cpu" else gpu or "cpu")


def exact_device(device: torch.device) -> torch.device:
    """The device itself where it has float64; the CPU in place of MPS, which has none."""
    return torch.device("cpu") if device.type == "mps" else device
