"""The data of a run: its videos, and its images if it has any."""

from hashlib import blake2b
from typing import Any

from jepa.data.digests import DIGEST
from jepa.data.mixture import Mixture, open_mixture
from jepa.data.source import Source
from jepa.training.config import PretrainConfig


def open_data(config: PretrainConfig) -> tuple[Mixture, Mixture | None]:
    """The videos and the images of a run. Raises as `open_mixture`."""
    remote, limits, pictures = config.loader.remote, config.loader.limits, config.images.data
    videos = open_mixture(config.data, "train", remote, limits)
    return videos, None if pictures is None else open_mixture(pictures, "train", remote, limits)


def joint_fingerprint(videos: Source | Mixture, images: Mixture | None) -> str:
    """Changes when any of the data does; that of videos alone is their own."""
    if images is None:
        return videos.fingerprint
    return blake2b(f"{videos.fingerprint} {images.fingerprint}".encode(), digest_size=DIGEST).hexdigest()


def facts_of(mixture: Mixture) -> dict[str, Any]:
    """What is kept of the data beside the weights, for JSON."""
    facts: dict[str, Any] = {"name": mixture.name, "fingerprint": mixture.fingerprint}
    if len(mixture.sources) > 1:
        parts = zip(mixture.names, mixture.sources, mixture.weights, strict=True)
        facts["sources"] = [
            {"name": name, "fingerprint": source.fingerprint, "weight": weight} for name, source, weight in parts
        ]
    return facts
