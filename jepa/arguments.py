"""The command line of one verb: from `Config`, a frozen dataclass, to options, help and a checked value.

jsonargparse converts the texts to the annotated types and prints the help. Around it stand three conveniences: dashes
and underscores are one (`--max-steps`, `--max_steps`), a boolean alone means true (`--resume`), and a list is
written with commas (`--optim.betas 0.9,0.95`); and messages of one line that name the nearest option.
"""

import argparse
import json
import re
import shutil
import textwrap
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from typing import Any, Union, get_args, get_origin

from jepa.config import (
    Option,
    Resolved,
    find_config,
    make_layer,
    nearest,
    options,
    read_layer,
    resolve,
    to_dict,
)
from jepa.config_values import type_name
from jepa.errors import ConfigError

Command = Any
"""A module of `jepa.commands`: SUMMARY, EXAMPLE, Config, run, and optionally POSITIONAL or REST.

POSITIONAL names the options that may be given without their name. REST names one option instead that takes the first
word without a dash and everything behind it as it stands: the command of another verb, as with `srun` or `env`.
"""


def parse(verb: str, command: Command, argv: Sequence[str]) -> Any | None:
    """The `Config` that the arguments describe, or None if they asked for `--print-config`, which is then done.

    Raises:
        ConfigError: an unknown option or key, a value of a wrong type, a missing one.
        SystemExit: after `--help`.
    """
    known = options(command.Config)
    rest = getattr(command, "REST", None)
    positionals = tuple(getattr(command, "POSITIONAL", (rest,) if rest else ()))
    words = _split(argv, known, positionals, verbatim=rest is not None)
    layers = [read_layer(command.Config, path, name) for name, path in (find_config(verb, c) for c in words.configs)]
    if words.help:
        _parser(verb, command, resolve(command.Config, layers)).print_help()
        return None
    taken = {rest: words.positionals} if rest and words.positionals else {}
    words = replace(words, positionals=[]) if rest else words
    given = _convert(_parser(verb, command, resolve(command.Config, layers)), words, known) | taken
    resolved = resolve(command.Config, [*layers, make_layer(command.Config, given, "command line")])
    if words.print_config:
        print(resolved.to_yaml(), end="")
        return None
    if missing := [key if key in positionals else _flag(key) for key in resolved.missing()]:
        raise ConfigError(f"missing {', '.join(missing)}; example: {command.EXAMPLE}")
    return resolved.build()


@dataclass
class _Words:
    """The arguments, sorted by what they are."""

    options: list[str] = field(default_factory=list)
    positionals: list[str] = field(default_factory=list)
    configs: list[str] = field(default_factory=list)
    print_config: bool = False
    help: bool = False


def _split(
    argv: Sequence[str], known: Mapping[str, Option], positionals: Sequence[str], *, verbatim: bool = False
) -> _Words:
    """Sort the arguments; options become `--flag=value`, which is unambiguous whatever the value looks like.

    Args:
        verbatim: what follows the first positional belongs to it, also what looks like an option.
    """
    words, rest = _Words(), list(argv)
    while rest:
        word = rest.pop(0)
        if word == "--":
            words.positionals += rest
            break
        if word in ("-h", "--help"):
            words.help = True
        elif not word.startswith("-") or word == "-" or re.fullmatch(r"-\.?\d.*", word):
            words.positionals.append(word)
            if verbatim:
                words.positionals += rest
                break
        else:
            _split_option(word, rest, known, words)
    if words.positionals and not positionals:
        raise ConfigError(f"unexpected argument '{words.positionals[0]}'{_meant(words.positionals[0], known)}")
    return words


def _split_option(word: str, rest: list[str], known: Mapping[str, Option], words: _Words) -> None:
    name, equals, value = word.partition("=")
    key = name.lstrip("-").replace("-", "_")
    if key == "print_config":
        words.print_config = True
        return
    if key != "config" and (key not in known or not name.startswith("--")):
        raise ConfigError(f"unknown option '{name}'{_meant(key, known)}")
    boolean = key in known and _is_boolean(known[key].hint)
    if not equals and boolean:
        value = rest.pop(0) if rest and rest[0].lower() in ("true", "false") else "true"
    elif not equals:
        if not rest or (rest[0].startswith("--") and rest[0] != "--"):
            raise ConfigError(f"{name}: expected a value")
        value = rest.pop(0)
    if key == "config":
        words.configs.append(value)
        return
    if _is_sequence(known[key].hint) and value != "null" and not value.startswith("["):
        value = f"[{value}]"
    words.options.append(f"{_flag(key)}={value.lower() if boolean else value}")


def _meant(name: str, known: Mapping[str, Option]) -> str:
    hint = nearest(name.lstrip("-").replace("-", "_"), [*known, "config", "print_config"])
    return re.sub(r"'(\w[\w.]*)'\?", lambda match: f"'{_flag(match[1])}'?", hint) if "mean" in hint else ""


def _flag(key: str) -> str:
    return f"--{key}" if "." in key else f"--{key.replace('_', '-')}"


def _members(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _is_boolean(hint: Any) -> bool:
    return bool in _members(hint)


def _is_sequence(hint: Any) -> bool:
    kinds = [member for member in _members(hint) if member is not type(None)]
    return all(get_origin(member) in (list, tuple) for member in kinds)


def _convert(parser: Any, words: _Words, known: Mapping[str, Option]) -> dict[str, Any]:
    """Texts -> typed values by dotted key, nested; only what was given."""
    try:
        space = parser.parse_args([*words.options, *words.positionals], defaults=False)
    except argparse.ArgumentError as error:
        raise ConfigError(_one_line(str(error), known)) from error
    content: dict[str, Any] = space.as_dict()
    return {key: value for key, value in content.items() if value not in ([], None) or _was_given(key, words)}


def _was_given(key: str, words: _Words) -> bool:
    return any(option.startswith(f"{_flag(key)}=") for option in words.options)


def _one_line(text: str, known: Mapping[str, Option]) -> str:
    """jsonargparse explains over several lines which types it tried; one is enough."""
    key = re.search(r'Parser key "([^"]+)"', text)
    value = re.search(r"(?:Got value|Given value): (.*)", text)
    if key and value and key[1] in known:
        name = _flag(key[1])
        return f"{name}: expected {type_name(known[key[1]].hint)}, got '{value[1].strip()}'"
    return " ".join(text.split())


def _parser(verb: str, command: Command, resolved: Resolved[Any]) -> Any:
    """The jsonargparse parser of a verb; `resolved` has the defaults to show."""
    from jsonargparse import ArgumentParser

    rest = getattr(command, "REST", None)
    positionals = tuple(getattr(command, "POSITIONAL", (rest,) if rest else ()))
    many = {name for name, option in options(command.Config).items() if _is_sequence(option.hint)}
    names = " ".join(f"{name.upper()}{'...' if name in many else ''}" for name in positionals)
    summary = f"{command.SUMMARY[:1].upper()}{command.SUMMARY[1:]}."
    parser = ArgumentParser(
        prog=f"jepa {verb}",
        usage=f"jepa {verb} [OPTIONS] {names}" if rest else f"jepa {verb} {f'{names} ' if names else ''}[OPTIONS]",
        description=f"{summary}\n\n{_essay(command)}\n\nexample:\n  {command.EXAMPLE}",
        formatter_class=_Formatter,
        exit_on_error=False,
        default_env=False,
    )
    parser.add_argument("--config", metavar="PATH_OR_NAME", help="YAML file, or the name of a shipped one; repeatable")
    parser.add_argument("--print-config", action="store_true", help="print the resolved configuration and stop")
    groups: dict[str, Any] = {}
    for key, option in options(command.Config).items():
        text = _help(option, resolved)
        if key in positionals:
            several = key in many
            kind = get_args(option.hint)[0] if several else option.hint
            parser.add_argument(key, nargs="*" if several else "?", type=kind, help=text, metavar=key.upper())
            continue
        title = key.rpartition(".")[0]
        if title and title not in groups:
            groups[title] = parser.add_argument_group(title, _first_sentence(option.group))
        metavar = None if _is_boolean(option.hint) else key.split(".")[-1].upper()
        # Dataclasses inside a list arrive as JSON; jepa.config checks them.
        kind = Any if _contains_dataclass(option.hint) else option.hint
        groups.get(title, parser).add_argument(_flag(key), type=kind, help=text, metavar=metavar)
    for item, keys in _items(command).items():
        parser.add_argument_group(f"items of {', '.join(keys)}", f"{_first_sentence(item)}\n\n{_item_help(item)}")
    return parser


def _items(command: Command) -> dict[type, list[str]]:
    """The dataclasses of which some options are lists, and those options."""
    found: dict[type, list[str]] = {}
    for key, option in options(command.Config).items():
        for member in get_args(option.hint):
            if isinstance(member, type) and is_dataclass(member):
                found.setdefault(member, []).append(_flag(key))
    return found


def _item_help(kind: type) -> str:
    """The keys of an item, laid out as the options are."""
    resolved: Resolved[Any] = resolve(kind, [])
    width = shutil.get_terminal_size().columns - 6  # as argparse, less the indentation of a group
    lines = [
        textwrap.fill(f"{key + '  ':<30}{_described(option, resolved)}", width, subsequent_indent=" " * 30)
        for key, option in options(kind).items()
    ]
    return "\n".join(lines)


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Plain argparse layout: what a value is and its default stand in the text already."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32)


def _help(option: Option, resolved: Resolved[Any]) -> str:
    return _described(option, resolved).replace("%", "%%")


def _described(option: Option, resolved: Resolved[Any]) -> str:
    text = field_docs(option.group).get(option.key.split(".")[-1], "")
    default = "required"
    if option.key in resolved.values:
        default = f"default: {_show(resolved.values[option.key])}"
    return f"{text} ({type_name(option.hint)}; {default})".strip()


def _show(value: Any) -> str:
    """A default as one would type it."""
    if isinstance(value, list | tuple) and all(isinstance(item, str | int | float) for item in value):
        return ",".join(str(item) for item in value) or "none"
    if isinstance(value, list | tuple) and all(is_dataclass(item) for item in value):
        return json.dumps([_given(item) for item in value])
    return json.dumps(to_dict({"": value})[""], default=str).strip('"')


def _given(item: Any) -> dict[str, Any]:
    """What of an item in a list is not the default of its class."""
    plain, given = to_dict(item), {}
    for one in fields(item):
        default = one.default if one.default_factory is MISSING else one.default_factory()
        if getattr(item, one.name) != default:
            given[one.name] = plain[one.name]
    return given


def _contains_dataclass(hint: Any) -> bool:
    return is_dataclass(hint) or any(_contains_dataclass(member) for member in get_args(hint))


def field_docs(kind: type) -> dict[str, str]:
    """The docstring under each field, base classes included."""
    from docstring_parser import parse_from_object

    found: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        found |= {item.arg_name: " ".join((item.description or "").split()) for item in parse_from_object(base).params}
    return found


def _essay(command: Command) -> str:
    """The opening paragraph of the module of the verb."""
    return (command.__doc__ or "").strip().split("\n\n")[0]


def _first_sentence(kind: type) -> str:
    return (kind.__doc__ or "").strip().split("\n")[0]
