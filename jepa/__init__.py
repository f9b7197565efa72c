"""Self-supervised video representation learning with joint-embedding prediction (V-JEPA)."""

from typing import TYPE_CHECKING, Any

from jepa.version import __version__

if TYPE_CHECKING:
    from jepa.checkpoints.load import create_encoder, list_encoders, load_encoder, load_predictor, load_probe

__all__ = ["__version__", "create_encoder", "list_encoders", "load_encoder", "load_predictor", "load_probe"]


def __getattr__(name: str) -> Any:
    # Lazy, so that `import jepa` and `jepa --help` do not import torch.
    if name in __all__:
        from jepa.checkpoints import load

        return getattr(load, name)
    raise AttributeError(f"module 'jepa' has no attribute {name!r}")
