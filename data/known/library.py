"""Finding the videos that annotations name, however the downloads were laid out.

Annotations name videos by identifiers or by paths of the authors' own machines. Downloads lie flat, in folders per
class, split or participant, and sometimes under another ending. So a video with an identifier is looked for by its name
without ending anywhere below the folders that were given, and one with a path where that says, then by its name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from jepa.data.folder import VIDEO_ENDINGS, visible_files
from jepa.data.lists import Entry
from jepa.data.source import Label, printable
from jepa.errors import DataError

REPLACEMENT = "replacement"
"""A folder whose name starts so holds whole copies of files that are damaged elsewhere (Kinetics of the CVDF)."""


@dataclass(frozen=True)
class Place:
    """Where a video is, or would be."""

    path: Path
    name: str
    """Path relative to the folder of videos."""
    absent: bool = False

    def entry(
        self,
        label: Label | None,
        split: str | None,
        *,
        name: str | None = None,
        more: Mapping[str, Label] | None = None,
        segment: tuple[float, float] | None = None,
        frame_rate: float | None = None,
    ) -> Entry:
        """What is to be packed from here; `name` if the place has several entries."""
        return Entry(self.path, name or self.name, label, split, more or {}, segment, frame_rate, self.absent)


class Library:
    """The folders in which the videos of a data set lie."""

    def __init__(self, roots: tuple[Path, ...]) -> None:
        """Looks at nothing yet.

        Raises:
            DataError: one of the roots is no folder.
        """
        self.roots = tuple(root.expanduser() for root in roots)
        for root in self.roots:
            if not root.is_dir():
                state = "not a folder" if root.exists() else "no such folder"
                raise DataError(f"{state}: {printable(root)}; with --format name the folders of the videos")

    def find(self, path: str, *, within: str | None = None) -> Place:
        """A video by the path that the annotations give, or by its name if it is not there.

        Args:
            path: relative to one of the roots, or absolute.
            within: name of a folder to prefer where the name occurs several times.
        """
        place = self.at(path)
        return place if not place.absent else self.named(Path(path).stem, within=within) or place

    def identified(self, stem: str, usual: str) -> Place:
        """A video by its identifier, which is its name without ending; `usual` is the path it has in the originals."""
        return self.named(stem) or self.at(usual)

    def at(self, path: str) -> Place:
        """A file or folder by its path, relative to one of the roots or absolute."""
        for root in self.roots:
            if (root / path).exists():
                return Place(root / path, path)
        return Place(self.roots[0] / path, path, absent=True)

    def named(self, stem: str, *, within: str | None = None) -> Place | None:
        """A video by its name without ending, anywhere below the roots; a replacement before what it replaces."""
        places = self._by_stem.get(stem)
        if not places:
            return None
        if len(places) == 1:
            return places[0]
        return min(places, key=lambda place: (not _is_replacement(place), within not in place.path.parts, place.name))

    @cached_property
    def _by_stem(self) -> dict[str, list[Place]]:
        """Every video below the roots. One walk: asking for each file costs more on a network file system."""
        found: dict[str, list[Place]] = {}
        for root in self.roots:
            for file in visible_files(root):
                if file.suffix[1:].lower() in VIDEO_ENDINGS:
                    found.setdefault(file.stem, []).append(Place(file, file.relative_to(root).as_posix()))
        return found


def _is_replacement(place: Place) -> bool:
    return any(part.startswith(REPLACEMENT) for part in place.path.parent.parts)
