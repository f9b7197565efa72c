"""What `jepa lint` finds, in words: one line for each, with the place and what to do."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from jepa.data.source import printable

FindingKind = Literal[
    "cut-at-member", "cut-header", "corrupt-header", "zeroed-header", "cut-data", "flipped-bytes", "duplicate-key",
    "missing-member", "link", "unsafe-name", "count", "size", "shard", "index", "manifest", "json", "unreadable",
    "undecodable", "too-short", "label",
]  # fmt: skip

_AGAIN = "copy the shard again, or pack its videos again"
_TOGETHER = "copy tar, index and manifest.json together, or pack again"
_PLAIN = "write the tar again, with plain files and relative names"

ADVICE: Mapping[FindingKind, str] = {
    "cut-at-member": _AGAIN,
    "cut-header": _AGAIN,
    "corrupt-header": _AGAIN,
    "zeroed-header": _AGAIN,
    "cut-data": _AGAIN,
    "flipped-bytes": _AGAIN,
    "duplicate-key": "give every sample a key of its own and pack again",
    "missing-member": _AGAIN,
    "link": _PLAIN,
    "unsafe-name": _PLAIN,
    "count": _TOGETHER,
    "size": _AGAIN,
    "shard": _TOGETHER,
    "index": _TOGETHER,
    "manifest": _TOGETHER,
    "json": _AGAIN,
    "unreadable": "check the disk and the permissions",
    "undecodable": "leave the video out and pack again",
    "too-short": "lower --stride or --frames, or leave the video out",
    "label": "correct the label, or add it to the list of classes",
}


@dataclass(frozen=True)
class Finding:
    """One damage."""

    kind: FindingKind
    shard: str
    """Path of the tar (or of the file that it is about) from the folder that was checked."""
    what: str
    key: str | None = None
    """The sample, if it is about one."""
    offset: int | None = None
    """Bytes from the start of the tar."""
    advice: str = ""
    """What to do; by default what `ADVICE` says of the kind."""

    @property
    def to_do(self) -> str:
        return self.advice or ADVICE[self.kind]

    def line(self) -> str:
        """Shard, place, what, and what to do, in one line."""
        place = [] if self.key is None else [f"key {self.key}"]
        place += [] if self.offset is None else [f"byte {self.offset}"]
        return printable(f"{', '.join([self.shard, *place])}: {self.what} [{self.kind}]; {self.to_do}")

    def record(self) -> dict[str, object]:
        """For JSON."""
        facts = {"shard": self.shard, "key": self.key, "what": self.what, "advice": self.to_do}
        texts = {name: None if text is None else printable(text) for name, text in facts.items()}
        return {"kind": self.kind, **texts, "offset": self.offset}
