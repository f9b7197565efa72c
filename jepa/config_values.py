"""Values of configurations: from what YAML and JSON hold to what a type annotation asks for, and back to plain data.

`jepa.config` owns keys and layers; here is what one value may be. A dataclass inside a value (in a list, say) has keys
of its own, so whoever converts says how one is built.
"""

import dataclasses
import json
import math
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from jepa.errors import ConfigError

Build = Callable[[Mapping[str, Any], type], Any]
"""Makes a dataclass of a mapping; raises ConfigError."""


def convert(value: Any, hint: Any, build: Build) -> Any:
    """`value`, as read from YAML or JSON, as an instance of the type annotation.

    Raises:
        ValueError: it is of another type; the message says what was expected.
        ConfigError: it is a mapping that stands for a dataclass, and something inside is wrong.
    """
    try:
        return _convert(value, hint, build)
    except ConfigError:
        raise
    except ValueError:
        raise ValueError(f"expected {type_name(hint)}, got {show(value)}") from None


def _convert(value: Any, hint: Any, build: Build) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(value, arguments, build)
    if origin is Literal:
        for choice in arguments:
            if value == choice and type(value) is type(choice):
                return value
        raise ValueError(value)
    if origin in (tuple, list) or hint in (tuple, list):
        return _convert_sequence(value, origin or hint, arguments, build)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise ValueError(value)
        return {convert(key, arguments[0], build): convert(inner, arguments[1], build) for key, inner in value.items()}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _convert_dataclass(value, hint, build)
    return _convert_scalar(value, hint)


def _convert_union(value: Any, members: tuple[Any, ...], build: Build) -> Any:
    for member in members:
        try:
            return convert(value, member, build)
        except ConfigError:
            raise
        except ValueError:
            continue
    raise ValueError(value)


def _convert_sequence(value: Any, kind: type, arguments: tuple[Any, ...], build: Build) -> Any:
    if not isinstance(value, list | tuple):
        raise ValueError(value)
    if kind is tuple and arguments and arguments[-1] is not Ellipsis:
        if len(value) != len(arguments):
            raise ValueError(value)
        return tuple(convert(item, member, build) for item, member in zip(value, arguments, strict=True))
    return kind(convert(item, arguments[0] if arguments else Any, build) for item in value)


def _convert_dataclass(value: Any, kind: type, build: Build) -> Any:
    if isinstance(value, kind):
        return value
    if not isinstance(value, Mapping):
        raise ValueError(value)
    return build(value, kind)


def _convert_scalar(value: Any, hint: Any) -> Any:
    if hint in (None, type(None)):
        if value is None:
            return None
    elif hint is float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    elif hint is int:
        if isinstance(value, float) and math.isfinite(value) and value == int(value):
            return int(value)  # 1e6 is a fair way to write a number of steps
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    elif hint is Path:
        if isinstance(value, str | Path) and str(value):
            return Path(value).expanduser()
    elif isinstance(value, hint):
        return value
    raise ValueError(value)


def type_name(hint: Any) -> str:
    """A type annotation in words for users: `int or null`, `one of a, b`, `list of float`."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(type_name(member) for member in arguments))
    if origin is Literal:
        return "one of " + ", ".join(str(choice) for choice in arguments)
    if origin in (tuple, list):
        if origin is list or arguments[1:] == (Ellipsis,):
            return f"list of {type_name(arguments[0])}"
        return f"list of {len(arguments)}: " + ", ".join(type_name(member) for member in arguments)
    if hint is type(None):
        return "null"
    return {bool: "true or false", Path: "path", str: "text"}.get(hint, getattr(hint, "__name__", str(hint)))


def plain(value: Any) -> Any:
    """As plain data for JSON and YAML: dataclasses as mappings, paths as text, tuples as lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def show(value: Any) -> str:
    """A value in a message: at most 60 characters of JSON."""
    text = json.dumps(plain(value), default=str, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
