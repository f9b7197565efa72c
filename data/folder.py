"""Plain video files or pictures as a data set: no packing, every file is looked at when the source is opened.

Convenient for a handful of files and for a first try. For more, `jepa pack` is better: it looks once, stores small
videos with many keyframes, and knows their checksums. Sub-folders are followed, also through symbolic links; hidden
files are left out. Files inside a folder count as videos by their ending (`VIDEO_ENDINGS`); a file that is named
itself is always tried. If every video lies in a sub-folder, the first sub-folder is its label (`cats/a.mp4`).

Where there is no video, pictures are taken (`PICTURE_ENDINGS`), each as a video of one frame. Beside videos they
are covers and thumbnails, and left out with a warning.
"""

import os
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from pathlib import Path

from jepa.data.digests import DIGEST
from jepa.data.limits import DEFAULT_LIMITS, Limits
from jepa.data.pictures import PICTURE_ENDINGS
from jepa.data.source import Label, SampleInfo, printable
from jepa.data.timeline import VideoInfo, probe
from jepa.errors import DataError
from jepa.logs import get_logger, progress

log = get_logger(__name__)

VIDEO_ENDINGS = frozenset(
    {"3g2", "3gp", "amv", "asf", "avi", "dv", "f4v", "flv", "gif", "m1v", "m2ts", "m2v", "m4v", "mjpeg", "mjpg", "mkv"}
    | {"mov", "mp4", "mpe", "mpeg", "mpg", "mts", "mxf", "nut", "ogg", "ogm", "ogv", "qt", "rm", "rmvb", "swf", "ts"}
    | {"vob", "webm", "wmv", "y4m"}
)
"""Endings of the files that are taken from a folder, without the dot, in lower case."""


class FolderSource:
    """Video files under a folder, or one file. Unreadable ones are left out, with a warning each."""

    def __init__(self, path: str | Path, limits: Limits = DEFAULT_LIMITS) -> None:
        """Find the videos and count the frames of each.

        Raises:
            DataError: no video is there, or none of them can be read; names the first one and why.
        """
        root = Path(path)
        self.name = printable(root.resolve().name)
        files = find_videos(root)
        readable: list[tuple[Path, VideoInfo]] = []
        failures: list[str] = []
        for file in progress(files, f"looking at the videos of {self.name}"):
            try:
                readable.append((file, probe(file, limits=limits)))
            except DataError as error:
                failures.append(str(error))
                if files != [root]:
                    log.warning("left out: %s", error)
        if not readable and files == [root]:
            raise DataError(failures[0])
        if not readable:
            raise DataError(
                f"none of the {len(files)} videos in {printable(root)} can be read; the first: {failures[0]}"
            )
        if failures:
            log.warning("%d of %d videos in %s are left out", len(failures), len(files), printable(root))
        labels = folder_labels(root, files)
        self._files = [file for file, _ in readable]
        self._sizes = [file.stat().st_size for file in self._files]
        self._infos = [_describe(file, info, root, labels.get(file, {})) for file, info in readable]
        self.runs: tuple[int, ...] = (len(self._files),)
        self.fingerprint = self._fingerprint()

    def __len__(self) -> int:
        return len(self._files)

    def info(self, index: int) -> SampleInfo:
        return self._infos[index]

    def read(self, index: int) -> bytes:
        """The file.

        Raises:
            DataError: it is gone, unreadable or has another size than when the source was opened.
        """
        file = self._files[index]
        try:
            content = file.read_bytes()
        except OSError as error:
            raise DataError(f"{printable(file)}: {error.strerror}") from None
        if len(content) != self._sizes[index]:
            raise DataError(f"{printable(file)} changed while it was in use: {self._sizes[index]} bytes before")
        return content

    def place(self, index: int) -> str:
        """The file, for messages."""
        return printable(self._files[index])

    def extra(self, index: int, name: str) -> bytes:
        raise KeyError(f"{name}: plain files have no further members")

    def _fingerprint(self) -> str:
        digest = blake2b(digest_size=DIGEST)
        for file, info in zip(self._files, self._infos, strict=True):
            status = file.stat()
            digest.update(f"{info.key}\0{status.st_size}\0{status.st_mtime_ns}\0{info.frames}\0".encode())
        return digest.hexdigest()


def find_videos(root: Path) -> list[Path]:
    """The videos under a folder in the order of their paths, or else the pictures; or the file itself.

    Raises:
        DataError: there is none.
    """
    if not root.is_dir():
        return [root]
    files = sorted(visible_files(root), key=lambda file: os.fsencode(file.relative_to(root)))
    videos = [file for file in files if file.suffix[1:].lower() in VIDEO_ENDINGS]
    pictures = [file for file in files if file.suffix[1:].lower() in PICTURE_ENDINGS]
    if videos and pictures:
        log.warning("%d pictures beside the videos in %s are left out", len(pictures), printable(root))
    if not videos and not pictures:
        example = f" ({len(files)} other files, such as {printable(files[0].relative_to(root))})" if files else ""
        known = " ".join(sorted(VIDEO_ENDINGS | PICTURE_ENDINGS))
        raise DataError(f"no videos in {printable(root)}{example}; known endings: {known}")
    return videos or pictures


def folder_labels(root: Path, files: list[Path]) -> Mapping[Path, Mapping[str, Label]]:
    """The label of each video: its first sub-folder of `root`. None at all if some video lies in `root` itself."""
    parts = {file: file.relative_to(root).parts if root.is_dir() else (file.name,) for file in files}
    if any(len(names) == 1 for names in parts.values()):
        return {}
    return {file: {"label": printable(names[0])} for file, names in parts.items()}


def visible_files(root: Path) -> Iterator[Path]:
    """All files that are not hidden; every folder once, also if links lead to it twice."""
    seen: set[str] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(folder, name) for name in names if not name.startswith("."))


def _describe(file: Path, info: VideoInfo, root: Path, labels: Mapping[str, Label]) -> SampleInfo:
    key = file.relative_to(root).as_posix() if root.is_dir() else file.name
    origin = printable(file.resolve())
    return SampleInfo(
        _distinct(key), info.frames, info.fps, info.height, info.width, labels, origin, info.times, info.exact
    )


def _distinct(name: str) -> str:
    """The name as printable text, another one for every other name: what is no text is escaped, and so are backslashes.

    `printable` reads better, but turns all bytes that are no UTF-8 into the same character.
    """
    text = os.fsencode(name).decode("utf-8", "surrogateescape").replace("\\", r"\\")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
