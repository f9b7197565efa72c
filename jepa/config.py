"""Configurations: frozen dataclasses <- defaults < YAML files in order < command line.

A configuration is described once, as a frozen dataclass with a docstring under each field. Here it is
flattened to dotted keys (`model.size`), each YAML file and the command line become a layer of such keys, every
layer is checked against the types before anything runs, and the last layer that names a key wins. The
origin of each value is kept, so a resolved configuration can say which file set what.

No torch here: reading a configuration must be instant, and checking it must be possible anywhere.
"""

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args, get_origin, get_type_hints

from jepa import config_values, yaml_text
from jepa.config_values import plain, show, type_name
from jepa.errors import ConfigError

T = TypeVar("T")

SHIPPED = Path(__file__).parent / "configs"
"""Folder of the YAML files that come with the package."""
VERB_FOLDERS = {"order": "pretrain", "probe": "eval", "extract": "eval", "synth": "data", "pack": "data"}
"""Folder of `configs/` where the YAML files of a verb lie, if it is not called like the verb."""


@dataclass(frozen=True)
class Option:
    """One leaf of a configuration."""

    key: str
    """Dotted name, e.g. `model.size`."""
    hint: Any
    """Its type annotation."""
    default: Any
    """Its default, or `dataclasses.MISSING` if it must be given."""
    group: type
    """The dataclass that declares it."""
    layer_of: Callable[[], type] | None = None
    """If its values are layers of a configuration by themselves (some of its keys, in one mapping): which one's. Said
    by the field: `field(metadata={"layer_of": lambda: OtherConfig})`."""

    @property
    def required(self) -> bool:
        return self.default is MISSING


@dataclass(frozen=True)
class Layer:
    """Values of one origin, by dotted key, already checked and converted."""

    origin: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Resolved(Generic[T]):
    """All layers laid over the defaults."""

    kind: type[T]
    values: Mapping[str, Any]
    """Value per dotted key; a required key that no layer gave is absent."""
    origins: Mapping[str, str]
    """Who set each key: "default", the name of a file, or "command line"."""

    def missing(self) -> list[str]:
        """Required keys that nobody gave."""
        return [key for key in options(self.kind) if key not in self.values]

    def build(self) -> T:
        """The configuration object.

        Raises:
            ConfigError: a required key is missing, or a dataclass refuses its values.
        """
        if missing := self.missing():
            raise ConfigError(f"missing {', '.join(missing)}: give it on the command line or in a --config file")
        return _construct(self.kind, self.values, "")

    def to_yaml(self) -> str:
        """All keys as YAML, each with its origin as a comment unless it is the default."""
        return yaml_text.dump(_nested({key: plain(value) for key, value in self.values.items()}), self.origins)


def options(kind: type, prefix: str = "", base: Any = MISSING) -> dict[str, Option]:
    """Every leaf of the dataclass by dotted key, in order of declaration.

    A field whose type is a dataclass is descended into; the defaults below it are those of its default value.
    """
    found: dict[str, Option] = {}
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        key, hint, default = f"{prefix}{field.name}", hints[field.name], _default(field)
        if base is not MISSING:
            default = getattr(base, field.name)
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            found |= options(hint, f"{key}.", default)
        else:
            found[key] = Option(key, hint, default, kind, field.metadata.get("layer_of"))
    return found


def resolve(kind: type[T], layers: Sequence[Layer]) -> Resolved[T]:
    """Lay the layers over the defaults, in order."""
    values = {key: option.default for key, option in options(kind).items() if not option.required}
    origins = dict.fromkeys(values, "default")
    for layer in layers:
        values |= layer.values
        origins |= dict.fromkeys(layer.values, layer.origin)
    ordered = [key for key in options(kind) if key in values]
    return Resolved(kind, {key: values[key] for key in ordered}, {key: origins[key] for key in ordered})


def changed(config: T, values: Mapping[str, Any]) -> T:
    """`config` with other values for these dotted keys. Raises ConfigError as its dataclasses do."""
    own = {key: option.default for key, option in options(type(config), base=config).items()}
    return _construct(type(config), {**own, **values}, "")


def load(kind: type[T], *paths: Path) -> T:
    """Configuration from YAML files alone, e.g. the `config.yaml` of a run folder."""
    return resolve(kind, [read_layer(kind, path) for path in paths]).build()


def load_named(kind: type[T], verb: str, name: str, given: Mapping[str, Any], origin: str) -> T:
    """A shipped configuration (or file) of a verb, with `given` dotted keys laid over it by `origin`."""
    shown, path = find_config(verb, name)
    return resolve(kind, [read_layer(kind, path, shown), make_layer(kind, given, origin)]).build()


def shipped_configs() -> dict[str, Path]:
    """The YAML files inside the package by name, e.g. `pretrain/demo`."""
    return {path.relative_to(SHIPPED).with_suffix("").as_posix(): path for path in sorted(SHIPPED.rglob("*.yaml"))}


def find_config(verb: str, text: str) -> tuple[str, Path]:
    """Name to show and path of a `--config`: a file, or the name of a shipped one.

    `demo` means `pretrain/demo` for the verb `pretrain`; a bare name never means a file or folder that merely
    lies in the current folder, unless nothing shipped is called so.
    """
    path, shipped = Path(text).expanduser(), shipped_configs()
    if path.is_file() and (path.suffix or path.name != text):
        return text, path
    wanted = text.removesuffix(".yaml")
    for name in (f"{verb}/{wanted}", f"{VERB_FOLDERS.get(verb, verb)}/{wanted}", wanted):
        if name in shipped:
            return f"{name}.yaml", shipped[name]
    if path.is_file():
        return text, path
    same = [name for name in shipped if name.split("/")[-1] == wanted]
    if len(same) == 1:
        return f"{same[0]}.yaml", shipped[same[0]]
    # A bare name may be the last part of several: `dem` is near to `demo`, of `pretrain/demo` and `eval/demo`.
    close = difflib.get_close_matches(wanted, [*shipped, *(name.split("/")[-1] for name in shipped)], 1, 0.5)
    hint = f"; did you mean '{close[0]}'?" if close else ""
    raise ConfigError(
        f"--config {text}: neither a file nor the name of a shipped configuration{hint}; "
        f"shipped: {', '.join(shipped) or 'none'}"
    )


def read_layer(kind: type, path: Path, origin: str | None = None) -> Layer:
    """A YAML file as a layer.

    Raises:
        ConfigError: the file cannot be read, is not a YAML mapping, has an unknown or repeated key, or a
            value of a wrong type; the message names file, line, key, and the nearest valid key.
    """
    origin = origin or str(path)
    content, lines = yaml_text.read(path)
    return make_layer(kind, content, origin, lines={key: f"{path}:{line}" for key, line in lines.items()})


def make_layer(kind: type, content: Mapping[str, Any], origin: str, lines: Mapping[str, str] | None = None) -> Layer:
    """A nested mapping as a layer: keys and types checked, values converted."""
    known = options(kind)
    groups = {key[:dot] for key in known for dot in range(len(key)) if key[dot] == "."}
    values: dict[str, Any] = {}
    pending = [(str(key), value) for key, value in reversed(list(content.items()))]
    while pending:
        key, value = pending.pop()
        where = f"{(lines or {}).get(key, origin)}: "
        if key in known:
            hint = known[key].hint
            if layer_of := known[key].layer_of:
                values[key] = _convert_layer(key, value, layer_of(), where, lines or {})
                continue
            if (item := _item_kind(hint)) and isinstance(value, list):
                values[key] = tuple(
                    _convert_item(f"{key}.{number}", one, item, origin, lines or {}) for number, one in enumerate(value)
                )
                continue
            try:
                values[key] = convert(value, hint)
            except ValueError as error:
                raise ConfigError(f"{where}{key}: {error}") from error
        elif key in groups:
            if not isinstance(value, Mapping):
                raise ConfigError(f"{where}{key}: expected a mapping with keys of its own, got {show(value)}")
            pending += [(f"{key}.{name}", inner) for name, inner in reversed(list(value.items()))]
        else:
            raise ConfigError(f"{where}unknown key '{key}'{nearest(key, [*known, *groups])}")
    return Layer(origin, values)


def _convert_layer(key: str, value: Any, kind: type, where: str, lines: Mapping[str, str]) -> dict[str, Any]:
    """A mapping with some of the keys of a configuration, flat; what is wrong in it is told with its own line."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}{key}: expected a mapping with keys of its own, got {show(value)}")
    return dict(make_layer(kind, value, f"{where}{key}", _below(key, lines, key)).values)


def _below(key: str, lines: Mapping[str, str], remark: str) -> dict[str, str]:
    """The places of the keys below this one, by their names below it, each with a remark."""
    start = f"{key}."
    return {name.removeprefix(start): f"{line}: {remark}" for name, line in lines.items() if name.startswith(start)}


def _item_kind(hint: Any) -> type | None:
    """The dataclass of which `hint` is a tuple of any length."""
    arguments = get_args(hint)
    kind = arguments[0] if get_origin(hint) is tuple and arguments[1:] == (Ellipsis,) else None
    return kind if isinstance(kind, type) and dataclasses.is_dataclass(kind) else None


def _convert_item(key: str, value: Any, kind: type, origin: str, lines: Mapping[str, str]) -> Any:
    """An item of a list of dataclasses; what is wrong in it is told with its own line."""
    listed = key.rpartition(".")[0]
    where = f"{lines[key]}: {listed}" if key in lines else f"{origin}: {key}"
    if isinstance(value, kind):
        return value
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: expected {type_name(kind)}, got {show(value)}")
    resolved: Resolved[Any] = resolve(kind, [make_layer(kind, value, where, _below(key, lines, listed))])
    if missing := resolved.missing():
        raise ConfigError(f"{where}: missing {', '.join(missing)}")
    try:
        return resolved.build()
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def convert(value: Any, hint: Any) -> Any:
    """As `jepa.config_values.convert`, with the dataclasses in a value built from their keys."""
    return config_values.convert(value, hint, _build)


def _build(content: Mapping[str, Any], kind: type) -> Any:
    return resolve(kind, [make_layer(kind, content, kind.__name__)]).build()


def nearest(name: str, known: Sequence[str]) -> str:
    """The hint "; did you mean 'x'?" behind a message, or the list of what there is if nothing is near."""
    if close := difflib.get_close_matches(name, known, 1, 0.5):
        return f"; did you mean '{close[0]}'?"
    # A right name in a wrong place: `size` for `model.size`.
    if same := [key for key in known if key.split(".")[-1] == name.split(".")[-1]]:
        return f"; did you mean '{same[0]}'?"
    return f"; there are: {', '.join(known)}" if 0 < len(known) <= 20 else ""


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain data for JSON and YAML: paths as text, tuples as lists."""
    content: dict[str, Any] = plain(config)
    return content


def to_yaml(config: Any) -> str:
    """A configuration as YAML that `load` reads back."""
    return yaml_text.dump(to_dict(config), {})


def config_hash(config: Any) -> str:
    """12 hexadecimal digits that change with any value; the same on every machine."""
    text = json.dumps(to_dict(config), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def _default(field: "dataclasses.Field[Any]") -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


def _construct(kind: type[T], values: Mapping[str, Any], prefix: str) -> T:
    hints = get_type_hints(kind)
    given: dict[str, Any] = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        key, hint = f"{prefix}{field.name}", hints[field.name]
        nested = dataclasses.is_dataclass(hint) and isinstance(hint, type)
        given[field.name] = _construct(hint, values, f"{key}.") if nested else values[key]
    try:
        return kind(**given)
    except ValueError as error:
        # A check that names its full key already (`optim.steps is 0, ...`) needs no prefix.
        where = f"{prefix.rstrip('.')}: " if prefix and not str(error).startswith(prefix) else ""
        raise ConfigError(f"{where}{error}") from error


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *parents, name = key.split(".")
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[name] = value
    return tree


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A tree of values, as `to_dict` gives it, by dotted keys."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found
