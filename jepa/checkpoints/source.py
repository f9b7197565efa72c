"""One opener for whatever holds weights: looks at what is there and lets the reader of its kind read it.

A path comes before a name: shipped encoders and names on the HuggingFace hub are looked up only if there is no such
file or folder.
"""

from dataclasses import replace
from pathlib import Path

from jepa.checkpoints.folder import CONFIG, WEIGHTS, open_folder
from jepa.checkpoints.hub import fetch, is_hub_name
from jepa.checkpoints.huggingface import files_of, is_huggingface, open_huggingface, read_json
from jepa.checkpoints.official import open_official
from jepa.checkpoints.read import checkpoint_exists
from jepa.checkpoints.run_checkpoint import find_checkpoints, open_checkpoint, open_newest
from jepa.checkpoints.weights import Hints, Weights, listed
from jepa.errors import ConfigError, DataError
from jepa.models.catalog import CATALOG, HOST

_SHIPPED = Path(__file__).parent / "shipped"
NO_HINTS = Hints()
CLIP = ("frames", "size")
"""Hints that every encoder with rotary positions takes: for which clips it is to be used."""


def open_weights(source: str | Path, hints: Hints = NO_HINTS, *, predictor: bool = True) -> Weights:
    """Open weights of any kind; nothing in them is ever run.

    Args:
        source: a run folder, finished or not; a portable folder or its `model.safetensors`; a checkpoint of a run; an
            official `.pt` or `.pth.tar` file; a HuggingFace folder; the name of a shipped encoder, or one on the hub.
        hints: what an official file leaves open about its architecture; frames and size of the clips to use also for
            other sources, if their positions are rotary.
        predictor: whether its predictor is wanted too.

    Raises:
        DataError: nothing there, or nothing that can be used.
        ConfigError: other hints for a source that describes itself.
    """
    path = _SHIPPED / str(source) if is_shipped(source) else Path(source).expanduser()
    if str(source) in CATALOG and not path.exists():
        raise DataError(_published(str(source)))
    if not path.exists() and is_hub_name(str(source)):
        path = fetch(str(source))
    if path.is_file() and path.suffix not in (".safetensors", ".ckpt", ".json"):
        return open_official(path, hints, predictor=predictor)
    if told := [name for name in hints.given() if name not in CLIP]:
        raise ConfigError(f"{source} describes its architecture itself: leave out {', '.join(told)}")
    opened = _open(path)
    return _for_other_clips(opened, hints) if hints.given() else opened


def _published(name: str) -> str:
    """What to say to the name of a published architecture, whose weights do not come with this package."""
    source = CATALOG[name].source
    hub = f", or give {source.hub}" if source.hub else ""
    return (
        f"{name} is an architecture (jepa.create_encoder), its weights do not come along: download "
        f"{HOST}/{source.file} and give the file{hub}"
    )


def _open(path: Path) -> Weights:
    """What describes itself."""
    if path.suffix == ".ckpt" and checkpoint_exists(path):
        return open_checkpoint(path)
    folder = path.parent if path.is_file() else path
    if (folder / CONFIG).is_file() and is_huggingface(_peek(folder / CONFIG)):
        if path.is_file() and path.name not in (files := files_of(folder)):
            raise DataError(f"{path} is no part of the model in its folder ({listed(files)}): give a folder of its own")
        return open_huggingface(folder)
    checkpoints = find_checkpoints(path)
    if checkpoints is not None and not (path / WEIGHTS).is_file():
        return open_newest(checkpoints)
    return open_folder(folder if path.suffix == ".json" else path)


def shipped() -> list[str]:
    """Names of the encoders that come with the package."""
    return sorted(folder.name for folder in _SHIPPED.glob("*") if folder.is_dir()) if _SHIPPED.is_dir() else []


def is_shipped(source: str | Path) -> bool:
    """Whether this names a shipped encoder; a file or folder of the same name comes first."""
    return str(source) in shipped() and not Path(source).exists()


def _for_other_clips(opened: Weights, hints: Hints) -> Weights:
    """With other frames or another size to use it with; rotary positions work at any."""
    encoder = opened.encoder
    if encoder is None or encoder.positions != "rope":
        raise ConfigError(f"{opened.where} has positions of the clips it was trained on: leave out frames and size")
    encoder = replace(encoder, frames=hints.frames or encoder.frames, size=hints.size or encoder.size)
    clip = {**opened.facts.get("clip", {}), "frames": encoder.frames, "size": encoder.size}
    return replace(opened, encoder=encoder, facts={**opened.facts, "clip": clip})


def is_name(source: str | Path) -> bool:
    """Whether this names weights, shipped or on the hub, and no file or folder."""
    return is_shipped(source) or (is_hub_name(str(source)) and not Path(source).exists())


def _peek(path: Path) -> dict[str, object]:
    """A JSON object, or an empty one if it is none: its reader will complain in its own words."""
    try:
        return read_json(path)
    except DataError:
        return {}
