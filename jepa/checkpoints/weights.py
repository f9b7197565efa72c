"""Weights of any source in the names of our modules, with what is known about them.

Every reader (`folder`, `official`, `huggingface`, `run_checkpoint`) returns one of these and every writer takes one, so
n formats need n readers and n writers, not n * n. Tensors are called `encoder.*`, `target_encoder.*`, `predictor.*`
and `probes.I.*`. What a source holds and we do not keep is in the report, with the reason.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from jepa.checkpoints.io import DIGEST, file_digest
from jepa.errors import DataError
from jepa.models.action_predictor import ActionPredictorConfig
from jepa.models.encoder import EncoderConfig
from jepa.models.place import PositionKind
from jepa.models.predictor import PredictorConfig
from jepa.models.probes import ProbeConfig

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""Of weights. Integers are quantised by scales that no format here holds, complex numbers are none of ours."""
SHOWN = 3
"""Names in a message; the others are counted."""


@dataclass(frozen=True)
class Hints:
    """What a file may leave open about its architecture, told by the user; none for what is usual."""

    heads: int | None = None
    """Attention heads of the encoder, or of the probe in a file of probes."""
    predictor_heads: int | None = None
    """Attention heads of the predictor."""
    frames: int | None = None
    """Frames of the clips it was trained on."""
    size: int | None = None
    """Height and width in pixels of the clips it was trained on."""
    positions: PositionKind | None = None
    """Kind of positions."""
    levels: tuple[int, ...] | None = None
    """0-based numbers of the supervised blocks."""

    def given(self) -> list[str]:
        """Names of the hints that are given."""
        return [name for name in self.__dataclass_fields__ if getattr(self, name) is not None]


@dataclass(frozen=True)
class Report:
    """What became of the tensors of a source."""

    read: int = 0
    """Tensors that have a place in our modules."""
    dropped: Mapping[str, str] = field(default_factory=dict)
    """Name in the source, and why it is not kept."""
    mask_tokens: tuple[float, ...] = ()
    """Norm of each mask token of the predictor. One that is 0 was never trained."""
    assumed: tuple[str, ...] = ()
    """What the file does not say and was taken to be as usual."""


class Store(Protocol):
    """Where tensors lie."""

    def names(self) -> list[str]:
        """Of all tensors."""
        ...

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """These tensors. Raises DataError when the file is damaged."""
        ...

    def digest(self, prefix: str) -> str:
        """12 hexadecimal digits of the whole file, or without one file of the tensors whose names start so."""
        ...


@dataclass(frozen=True)
class MemoryStore:
    """Tensors that are read already (or mapped into memory)."""

    tensors: Mapping[str, Tensor]

    def names(self) -> list[str]:
        return list(self.tensors)

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        return {name: self.tensors[name] for name in names}

    def digest(self, prefix: str) -> str:
        found = hashlib.blake2b(digest_size=DIGEST)
        for name in sorted(name for name in self.tensors if name.startswith(prefix)):
            tensor = self.tensors[name].contiguous()
            found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
        return found.hexdigest()


@dataclass(frozen=True)
class SafetensorsStore:
    """One safetensors file, opened anew for each read."""

    path: Path

    def names(self) -> list[str]:
        names: list[str] = self._with(lambda file: list(file.keys()))
        return names

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = self._with(lambda file: {name: file.get_tensor(name) for name in names})
        return found

    def digest(self, prefix: str) -> str:
        return file_digest(self.path)

    def _with(self, action: Any) -> Any:
        try:
            with safe_open(self.path, framework="pt") as file:
                return action(file)
        except (SafetensorError, OSError) as error:
            raise DataError(f"{self.path} cannot be read as safetensors ({error}): is it damaged?") from error


@dataclass(frozen=True)
class Weights:
    """An opened source."""

    where: str
    """Path or name, for messages."""
    store: Store
    encoder: EncoderConfig | None
    predictor: PredictorConfig | ActionPredictorConfig | None = None
    probes: tuple[ProbeConfig, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What a user of the weights needs: `evaluate`, `clip`, `normalisation`, `source`, ..."""
    report: Report = field(default_factory=Report)

    def tensors(self, prefix: str = "") -> dict[str, Tensor]:
        """Tensors whose names start with `prefix`, without it. Raises DataError when the file is damaged, or
        one of them is none of weights."""
        found = self.store.read(name for name in self.store.names() if name.startswith(prefix))
        require_values(found, self.where)
        return {name[len(prefix) :]: tensor for name, tensor in found.items()}

    def parts(self) -> list[str]:
        """What is in it: `encoder`, `target_encoder`, `predictor`, `probes`."""
        return sorted({name.split(".")[0] for name in self.store.names()})

    def digest(self, prefix: str = "") -> str:
        """12 hexadecimal digits that change with any weight; where many lie together, any whose name starts so."""
        return self.store.digest(prefix)

    def probe(self, number: int) -> ProbeConfig:
        """Architecture of a probe, counted from 0. Raises DataError if there is none."""
        if not self.probes:
            raise DataError(f"{self.where} holds no probe")
        if not 0 <= number < len(self.probes):
            raise DataError(f"{self.where} holds {len(self.probes)} probes, none of number {number}")
        return self.probes[number]

    @property
    def evaluated(self) -> str:
        """Name of the encoder that is meant to be used: `target_encoder` or `encoder`."""
        return encoder_prefix(self.facts)


def encoder_prefix(facts: Mapping[str, Any]) -> str:
    """Module name of the encoder that is meant to be evaluated."""
    return "encoder" if facts.get("evaluate") == "context" else "target_encoder"


def norms_of(tensors: Mapping[str, Tensor]) -> tuple[float, ...]:
    """Norm of each mask token of the predictor, in order."""
    found = {int(name.rsplit(".", 1)[1]): t for name, t in tensors.items() if name.startswith("predictor.mask_tokens.")}
    return tuple(float(found[number].float().norm()) for number in sorted(found))


def listed(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    ordered = sorted(name if name.isprintable() else ascii(name) for name in names)
    more = f" and {len(ordered) - SHOWN} more" if len(ordered) > SHOWN else ""
    return f"{', '.join(ordered[:SHOWN])}{more}"


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that hold NaN or infinity.

    Costs one sum each, less than reading or hashing them: a single such value spoils it.
    """
    return sorted(
        name
        for name, tensor in tensors.items()
        # A sum may also overflow; then all values are looked at.
        if not _summed(tensor).isfinite() and not tensor.isfinite().all()
    )


def _summed(tensor: Tensor) -> Tensor:
    return tensor.sum(dtype=torch.promote_types(tensor.dtype, torch.float32))


def require_values(tensors: Mapping[str, Tensor], where: str) -> None:
    """Raise DataError, naming a tensor, unless all are dense, of floating point, and as large as their shapes tell.

    No value is read.
    """
    for name, tensor in tensors.items():
        if fault := _fault(tensor):
            raise DataError(f"{where} cannot be used: tensor {listed([name])} {fault}")


def _fault(tensor: Tensor) -> str | None:
    if tensor.dtype not in DTYPES:
        return f"is {str(tensor.dtype).removeprefix('torch.')}, expected floating point of 16, 32 or 64 bits"
    if tensor.is_nested or tensor.layout != torch.strided:
        return "is sparse or nested, expected a dense one"
    if tensor.is_meta:
        return "has a shape but no values"
    if tensor.numel() == 0:
        return f"is empty, of shape {list(tensor.shape)}"
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return f"is of shape {list(tensor.shape)}, but the file holds fewer values"
    return None


def misfit(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """How many tensors differ in name or shape, and some of them by name; empty if none does."""
    extra, missing = found.keys() - wanted.keys(), wanted.keys() - found.keys()
    shapes = [
        f"{name} is {list(found[name].shape)}, expected {list(wanted[name].shape)}"
        for name in sorted(found.keys() & wanted.keys())
        if found[name].shape != wanted[name].shape
    ]
    parts = [
        *([f"{len(extra)} unknown ({listed(extra)})"] if extra else []),
        *([f"{len(missing)} missing ({listed(missing)})"] if missing else []),
        *([f"{len(shapes)} of another shape ({listed(shapes)})"] if shapes else []),
    ]
    count = len(extra) + len(missing) + len(shapes)
    return f"{count} tensors differ in name or shape: {'; '.join(parts)}" if parts else ""


def require_fit(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], where: str, part: str) -> None:
    """Raise DataError, naming the tensors, unless names and shapes are the same on both sides."""
    if other := misfit(found, wanted):
        raise DataError(f"{where} does not fit the {part} that its shapes tell of: {other}")
