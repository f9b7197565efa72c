"""The labels of a sample in a tar of others: what its members `json`, `cls` and `txt` say.

- `json`: an object gives its values that are text, numbers or true and false, under their names; if it has an object
  `labels` (as our own tars have), the values of that and no others. A single value is the label.
- `cls`: a whole number or a name, in text.
- `txt`: one line of text.

`label` is what is first there: `label` or `class` of the json, the `cls`, the `txt`. Text longer than `LONGEST` is no
label but a caption or an address; it stays where it is, in a member that `Source.extra` reads. A `label`, `class` or
`cls` that is there and is no label (not a number, infinite, too long, half a character) is said, and not passed over.
"""

import json
import math
from collections.abc import Mapping

from jepa.data.source import Label

LABEL_MEMBERS = ("json", "cls", "txt")
LONGEST = 200
"""Letters of a label, at most."""


def labels_of(contents: Mapping[str, bytes]) -> tuple[dict[str, Label], str]:
    """Labels by name, and in words what could not be read of them; empty if all could.

    Args:
        contents: of the members of one sample, by their ending.
    """
    labels: dict[str, Label] = {}
    problem = ""
    if "json" in contents:
        try:
            content = json.loads(contents["json"])
            labels = _from_json(content)
            problem = _unusable(content)
        except (ValueError, RecursionError):  # also what is no UTF-8
            problem = "its json cannot be read"
    for ending in ("cls", "txt"):
        if ending in contents and "label" not in labels:
            try:
                label = _from_text(contents[ending])
                if ending == "cls" and isinstance(label, str) and not _is_name(label):
                    label = None
            except ValueError:
                problem = problem or f"its {ending} is no text"
                continue
            labels.update({} if label is None else {"label": label})
            if ending == "cls" and label is None and contents[ending].strip():
                problem = problem or "its cls is no label"
    return labels, problem


def origin_of(contents: Mapping[str, bytes]) -> str:
    """The file that a sample was made from, if its json has it as our own tars have."""
    try:
        content = json.loads(contents.get("json", b"{}"))
    except (ValueError, RecursionError):
        return ""
    origin = content.get("origin") if isinstance(content, dict) else None
    return origin if isinstance(origin, str) and _is_text(origin) else ""


def _from_json(content: object) -> dict[str, Label]:
    if isinstance(content, dict):
        own = content.get("labels")
        if isinstance(own, dict):
            return {
                name: value for name, one in own.items() if (value := _scalar(name, one, len(str(one)))) is not None
            }
        labels = {name: value for name, one in content.items() if (value := _scalar(name, one, LONGEST)) is not None}
        if "label" not in labels and "class" in labels:
            labels["label"] = labels["class"]
        return labels
    label = _scalar("label", content, LONGEST)
    return {} if label is None else {"label": label}


def _scalar(name: str, value: object, longest: int) -> Label | None:
    """A value that can be a label; None for another."""
    if not _is_text(name):
        return None
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int) and name in ("label", "class") and value.bit_length() > 63:
        return None  # no class has such a number, and no array takes it
    if isinstance(value, str):
        return value if len(value) <= longest and _is_text(value) else None
    return value if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)) else None


def _unusable(content: object) -> str:
    """In words, a `label` or `class` that a json has and that can be none; empty if there is no such thing."""
    if not isinstance(content, dict):
        return ""
    own = content.get("labels")
    given, longest = (own, None) if isinstance(own, dict) else (content, LONGEST)
    for name in ("label", "class"):
        one = given.get(name)
        if one is not None and _scalar(name, one, len(str(one)) if longest is None else longest) is None:
            return f"the {name} in its json is no label"
    return ""


def _from_text(content: bytes) -> Label | None:
    """A whole number, a line of text, or None for more; ValueError for what is no text."""
    text = content.decode("utf-8").strip()
    if not text or len(text) > LONGEST or len(text.splitlines()) > 1:
        return None
    return int(text) if text.removeprefix("-").isdecimal() and len(text) < 20 else text


def _is_name(text: str) -> bool:
    """Whether it is not what programs write where there is no number."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return True


def _is_text(text: str) -> bool:
    """Whether it can be written: JSON may hold halves of characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
