"""Annotation files as rows, with errors of one line that name file and line; and the names of splits."""

import csv
import io
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jepa.data.known.library import Library
from jepa.data.source import printable
from jepa.errors import ConfigError, DataError

SPLIT_NAMES = {
    "train": "train", "training": "train", "trainlist": "train",
    "val": "val", "valid": "val", "validate": "val", "validation": "val",
    "test": "test", "testing": "test", "testlist": "test",
}  # fmt: skip
"""Names that annotations give to splits -> names of the folders here."""


@dataclass(frozen=True)
class Request:
    """What a reader is asked for."""

    annotations: tuple[Path, ...]
    """Annotation files; or folders of them."""
    library: Library
    """Where the videos lie."""
    split: str | None = None
    """Split of annotations that do not say it themselves."""
    fold: int = 1
    """Which of several official divisions into train and test, from 1."""


def split_of(file: Path, request: Request) -> str:
    """The split that an annotation file holds, by a word in its name.

    Raises:
        ConfigError: its name has no such word, and the request names no split.
    """
    words = [word for word in re.split(r"[^a-z]+", file.stem.lower()) if word in SPLIT_NAMES]
    if words:
        return SPLIT_NAMES[words[-1]]
    if request.split is None:
        raise ConfigError(f"{printable(file)}: its name does not say which split it holds; give --split, such as train")
    return request.split


def split_named(text: str, where: str) -> str:
    """The split that a value in an annotation file names.

    Raises:
        DataError: it is none.
    """
    if text.strip().lower() not in SPLIT_NAMES:
        raise DataError(f"{where}: split '{printable(text)}', expected one of {', '.join(SPLIT_NAMES)}")
    return SPLIT_NAMES[text.strip().lower()]


def lines(file: Path) -> Iterator[tuple[str, str]]:
    """The lines of a text file that are not empty, each behind what names it in messages.

    Raises:
        DataError: the file cannot be read, or holds no line.
    """
    found = [(number, line.strip()) for number, line in enumerate(_text(file).split("\n"), start=1) if line.strip()]
    if not found:
        raise DataError(f"{printable(file)} is empty")
    return ((f"{printable(file)} line {number}", line) for number, line in found)


def rows(file: Path, required: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows of a CSV file with a header, by column, each behind what names it in messages.

    Raises:
        DataError: the file cannot be read, is empty, lacks a required column, or has a row of another length.
    """
    reader = _records(file)
    header = [name.strip() for name in next(reader, (0, []))[1]]
    if missing := [name for name in required if name not in header]:
        got = ", ".join(header)[:100] or "nothing"
        raise DataError(f"{printable(file)}: no column {', '.join(missing)} in its first line ({printable(got)})")
    for line, values in reader:
        where = f"{printable(file)} line {line}"
        if not any(value.strip() for value in values):
            continue
        if len(values) != len(header):
            raise DataError(f"{where}: {len(values)} columns, the first line has {len(header)}")
        yield where, {name: value.strip() for name, value in zip(header, values, strict=True)}


def _records(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields of each row of a CSV file."""
    reader = csv.reader(io.StringIO(_text(file), newline=""))
    try:
        for values in reader:
            yield reader.line_num, values
    except csv.Error as error:
        raise DataError(f"{printable(file)} line {reader.line_num}: {error}") from None


def parsed(file: Path, kind: type) -> Any:
    """The content of a JSON file.

    Raises:
        DataError: the file cannot be read, is no JSON, or is not a `kind` (list or dict).
    """
    try:
        content = json.loads(_text(file))
    except ValueError as error:
        raise DataError(f"{printable(file)} is not JSON: {error}") from None
    if not isinstance(content, kind) or not content:
        raise DataError(f"{printable(file)}: expected a {kind.__name__} that is not empty")
    return content


def number(text: str, where: str) -> float:
    """A number in a row.

    Raises:
        DataError: it is none.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{where}: '{printable(text)}' is not a number")
    return value


def beside(file: Path, *names: str) -> Path | None:
    """The first of these files that lies in the folder of an annotation file."""
    return next((path for name in names if (path := file.parent / name).is_file()), None)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{printable(file)}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"{printable(file)} is not UTF-8 text") from None
