"""The places that a run reads and writes: a container has to see them, and a job should find them.

Phases may have data and a teacher of their own. Weights with neighbours that describe them (`config.json` beside
`model.safetensors`, `config.yaml` of the run of a checkpoint) are of no use without these.
"""

from pathlib import Path

from jepa.checkpoints.source import is_name
from jepa.data.storage import absolute, url_of
from jepa.training.config import PretrainConfig


def inputs(run: PretrainConfig) -> list[Path]:
    """Data and weights that must be there before the run starts, as the configuration has them."""
    found: list[Path] = []
    for one in _parts(run):
        weights = (name for name in (one.objective.teacher,) if name is not None and not is_name(name))
        found += [place for place in (one.data, one.images.data, one.online.data) if place is not None]
        found += map(Path, weights)
    if run.init is not None and not is_name(run.init):  # those of later phases are written by the run itself
        found.append(Path(run.init))
    return list(dict.fromkeys(found))


def folders(run: PretrainConfig) -> list[Path]:
    """Everything of this machine that the run reads or writes, absolute: what to mount."""
    caches = [one.loader.cache for one in _parts(run) if one.loader.cache is not None]
    places = (place for place in (run.out, *map(_with_neighbours, inputs(run)), *caches) if not url_of(place))
    return list(dict.fromkeys(map(absolute, places)))


def _parts(run: PretrainConfig) -> list[PretrainConfig]:
    return [run, *(run.phase_run(number) for number in range(len(run.phases)))]


def _with_neighbours(place: Path) -> Path:
    """What to mount for a file or folder to be of use; never the root."""
    if place.suffix == ".ckpt":
        folder = place.parent.parent if place.parent.name == "checkpoints" else place.parent
    else:
        folder = place.parent if place.suffix in (".safetensors", ".json") else place
    return place if folder == folder.parent else folder
