"""Self-supervised video representation learning with joint-embedding prediction (V-JEPA)."""

from typing import TYPE_CHECKING, Any

from jepa.version import __version__

if TYPE_CHECKING:
    from jepa.checkpoints.load import load_encoder

__all__ = ["__version__", "load_encoder"]


def __getattr__(name: str) -> Any:
    # Lazy, so that `import jepa` and `jepa --help` do not import torch.
    if name == "load_encoder":
        from jepa.checkpoints.load import load_encoder

        return load_encoder
    raise AttributeError(f"module 'jepa' has no attribute {name!r}")
