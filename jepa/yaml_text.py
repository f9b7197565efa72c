"""YAML text of configurations: reading with the line of every key, writing with the origin of every value.

PyYAML alone tells neither where a key stands nor that a key is given twice, and it cannot write a comment.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from jepa.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """PyYAML reads `1e-3` as text (YAML 1.1 wants a dot); everybody means the number."""


class _Dumper(yaml.SafeDumper):
    """Quotes text that `_Loader` would take for a number."""


for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
    )


def read(path: Path) -> tuple[Mapping[str, Any], dict[str, int]]:
    """Content of a YAML file, and the line of each dotted key; those in a list have its number, as in `kinds.0.blocks`.

    Raises:
        ConfigError: it cannot be read, is no YAML mapping, or gives a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a UTF-8 text file"
        raise ConfigError(f"{path}: cannot read this configuration: {reason}") from error
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return {}, {}
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(f"{path}:1: expected `key: value` lines, got {node.tag.split(':')[-1]}")
        lines: dict[str, int] = {}
        _find_lines(node, "", path, lines, set())
        return loader.construct_document(node), lines
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{path}:{line}: not valid YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    finally:
        loader.dispose()


def _find_lines(node: yaml.MappingNode, prefix: str, path: Path, lines: dict[str, int], seen: set[int]) -> None:
    seen.add(id(node))
    for key, value in node.value:
        name, line = f"{prefix}{key.value}", key.start_mark.line + 1
        if name in lines:
            raise ConfigError(f"{path}:{line}: key '{name}' is given twice (first on line {lines[name]})")
        lines[name] = line
        if isinstance(value, yaml.MappingNode) and id(value) not in seen:
            _find_lines(value, f"{name}.", path, lines, seen)
        elif isinstance(value, yaml.SequenceNode):
            for number, item in enumerate(value.value):
                lines[f"{name}.{number}"] = item.start_mark.line + 1
                if isinstance(item, yaml.MappingNode) and id(item) not in seen:
                    _find_lines(item, f"{name}.{number}.", path, lines, seen)


def dump(tree: Mapping[str, Any], origins: Mapping[str, str], prefix: str = "") -> str:
    """A nested mapping as YAML; `origins`, by dotted key, become comments unless they are "default".

    Block mappings with values in one line each, so that an origin fits behind a value.
    """
    indent = "  " * prefix.count(".")
    text = ""
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value and key not in origins:
            text += f"{indent}{name}:\n{dump(value, origins, f'{key}.')}"
            continue
        shown = _in_one_line({name: value}, allow_unicode=True)
        if len(shown.splitlines()) > 1:  # text with line breaks: as escapes
            shown = _in_one_line({name: value}, default_style='"')
        origin = origins.get(key, "default")
        text += f"{indent}{shown[1:-1]}{f'  # {origin}' if origin != 'default' else ''}\n"
    return text


def _in_one_line(content: Mapping[str, Any], **style: Any) -> str:
    return str(yaml.dump(content, Dumper=_Dumper, default_flow_style=True, width=math.inf, **style)).strip()
