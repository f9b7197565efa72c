"""Configurations: checks, precedence, origins, writing."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from jepa.config import (
    changed,
    config_hash,
    convert,
    load,
    make_layer,
    options,
    read_layer,
    resolve,
    to_dict,
    to_yaml,
)
from jepa.config_values import type_name
from jepa.errors import ConfigError


@dataclass(frozen=True)
class Block:
    """One block."""

    scale: float = 0.5
    count: int = 1


@dataclass(frozen=True)
class Model:
    """A model."""

    size: Literal["nano", "tiny"] = "nano"
    depth: int | None = None
    blocks: tuple[Block, ...] = (Block(),)

    def __post_init__(self) -> None:
        if self.depth is not None and self.depth < 1:
            raise ConfigError(f"depth is {self.depth}, expected at least 1")


@dataclass(frozen=True)
class Sample:
    """A configuration with every kind of field."""

    out: Path
    rate: float = 1e-3
    steps: int = 10
    resume: bool = False
    name: str = "a"
    betas: tuple[float, float] = (0.9, 0.95)
    sources: list[str] = field(default_factory=list)
    init: str | Path | None = None
    model: Model = Model(size="tiny")


@dataclass(frozen=True)
class Part:
    """Holds some keys of another configuration."""

    name: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict, metadata={"layer_of": lambda: Sample})


@dataclass(frozen=True)
class Parted:
    """A configuration with parts."""

    parts: tuple[Part, ...] = ()


Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        path = tmp_path / "my.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_defaults_of_a_nested_default_value_win_over_those_of_its_class() -> None:
    assert options(Sample)["model.size"].default == "tiny"
    assert resolve(Sample, [make_layer(Sample, {"out": "x"}, "here")]).build().model == Model(size="tiny")


def test_later_layers_win_key_by_key_and_origins_say_who_did(write: Write) -> None:
    first = make_layer(Sample, {"steps": 1, "model": {"size": "nano", "depth": 3}}, "first")
    second = read_layer(Sample, write("steps: 2\nout: run\n"))
    third = make_layer(Sample, {"model": {"depth": 4}}, "command line")
    resolved = resolve(Sample, [first, second, third])
    assert resolved.build() == Sample(out=Path("run"), steps=2, model=Model(size="nano", depth=4))
    assert {key: resolved.origins[key] for key in ("steps", "model.size", "model.depth", "rate")} == {
        "steps": str(write("")),
        "model.size": "first",
        "model.depth": "command line",
        "rate": "default",
    }


def test_a_missing_required_key_is_named() -> None:
    assert resolve(Sample, []).missing() == ["out"]
    with pytest.raises(ConfigError, match="missing out"):
        resolve(Sample, []).build()


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("out: x\nstep: 3\n", 2, ["unknown key 'step'", "did you mean 'steps'?"]),
        ("model:\n  size: nano\n  dept: 3\n", 3, ["'model.dept'", "'model.depth'"]),
        ("size: nano\n", 1, ["'size'", "'model.size'"]),
        ("steps: many\n", 1, ["steps: expected int", '"many"']),
        ("steps: 1.5\n", 1, ["steps: expected int", "1.5"]),
        ("resume: 1\n", 1, ["resume: expected true or false"]),
        ("\nmodel:\n  size: huge\n", 3, ["model.size: expected one of nano, tiny", '"huge"']),
        ("model: nano\n", 1, ["model: expected a mapping"]),
        ("betas: [1, 2, 3]\n", 1, ["betas: expected list of 2: float, float"]),
        ("model:\n  blocks:\n  - {scal: 1}\n", 3, ["model.blocks", "'scal'", "'scale'"]),
        ("steps: 1\nsteps: 2\n", 2, ["'steps' is given twice", "line 1"]),
        ("- a\n- b\n", 1, ["expected `key: value` lines"]),
        ("steps: ]\nout: x\n", 1, ["not valid YAML"]),
    ],
)
def test_a_mistake_in_a_file_is_one_line_with_file_line_key_and_remedy(
    write: Write, text: str, line: int, words: list[str]
) -> None:
    path = write(text)
    with pytest.raises(ConfigError) as caught:
        read_layer(Sample, path)
    message = str(caught.value)
    assert message.startswith(f"{path}:{line}: ")
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml: cannot read"):
        read_layer(Sample, tmp_path / "absent.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00name")
    with pytest.raises(ConfigError, match=r"bytes\.yaml: .*UTF-8"):
        read_layer(Sample, tmp_path / "bytes.yaml")


def test_a_refusal_by_a_dataclass_names_its_place() -> None:
    with pytest.raises(ConfigError, match="model: depth is 0, expected at least 1"):
        resolve(Sample, [make_layer(Sample, {"out": "x", "model": {"depth": 0}}, "here")]).build()


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (3, float, 3.0),
        (1e6, int, 1_000_000),
        ("~/x", Path, Path.home() / "x"),
        (None, int | None, None),
        ("a/b", str | Path, "a/b"),
        ([1, 2], tuple[float, ...], (1.0, 2.0)),
        ([{"scale": 2}], tuple[Block, ...], (Block(scale=2.0),)),
        ({"a": 1}, dict[str, float], {"a": 1.0}),
    ],
)
def test_values_become_instances_of_their_types(value: object, hint: Any, expected: object) -> None:
    got = convert(value, hint)
    assert got == expected
    assert type(got) is type(expected)


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (True, int),
        (True, float),
        ("3", int),
        (1, str),
        (None, int),
        ("a", tuple[str, ...]),
        (1, Literal["1"]),
        ("", Path),
    ],
)
def test_values_of_another_type_are_refused(value: object, hint: Any) -> None:
    with pytest.raises(ValueError, match=r"expected .*, got "):
        convert(value, hint)


def test_exponents_without_a_dot_are_numbers(write: Write) -> None:
    assert load(Sample, write("out: x\nrate: 1e-4\nsteps: 2e3\n")) == Sample(out=Path("x"), rate=1e-4, steps=2000)


def test_types_are_named_in_words() -> None:
    assert type_name(int | None) == "int or null"
    assert type_name(tuple[float, ...]) == "list of float"
    assert type_name(Path | None) == "path or null"


NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(
    rate=st.floats(allow_nan=False, allow_infinity=False),
    steps=st.integers(),
    name=NAMES,
    sources=st.lists(NAMES, max_size=3),
    depth=st.none() | st.integers(1, 9),
)
def test_what_is_written_reads_back_the_same(
    tmp_path_factory: pytest.TempPathFactory, rate: float, steps: int, name: str, sources: list[str], depth: int | None
) -> None:
    config = Sample(Path("x"), rate, steps, name=name, sources=sources, model=Model(depth=depth))
    path = tmp_path_factory.getbasetemp() / "written.yaml"
    path.write_text(to_yaml(config), encoding="utf-8")
    assert load(Sample, path) == config


@pytest.mark.parametrize("name", ["0E0", "1e-3", "12E+4"])
def test_text_that_looks_like_a_number_stays_text(tmp_path: Path, name: str) -> None:
    path = tmp_path / "written.yaml"
    path.write_text(to_yaml(Sample(Path("x"), name=name, sources=[name])))
    assert (load(Sample, path).name, load(Sample, path).sources) == (name, [name])


def test_a_resolved_configuration_is_written_with_origins() -> None:
    text = resolve(Sample, [make_layer(Sample, {"steps": 3}, "my.yaml")]).to_yaml()
    assert "steps: 3  # my.yaml\n" in text
    assert "rate: 0.001\n" in text
    assert "out" not in yaml.safe_load(text)


def test_plain_data_is_json_and_its_hash_changes_with_any_value() -> None:
    config = Sample(Path("x"))
    assert json.loads(json.dumps(to_dict(config)))["model"]["blocks"] == [{"scale": 0.5, "count": 1}]
    assert len(config_hash(config)) == 12
    assert config_hash(config) == config_hash(Sample(Path("x")))
    others = [Sample(Path("y")), Sample(Path("x"), steps=11), Sample(Path("x"), model=Model(blocks=(Block(count=2),)))]
    assert len({config_hash(one) for one in [config, *others]}) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("blocks:\n  - {scale: 1}\n  - wrong: 1\n", ":3: blocks: unknown key 'wrong'"),
        ("blocks:\n  - {scale: 1}\n  -\n    count: a\n", ':4: blocks: count: expected int, got "a"'),
        ("blocks: [{scale: 1}, 3]\n", ":1: blocks: expected Block, got 3"),
    ],
)
def test_a_mistake_in_a_list_is_told_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "list.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(Model, path)
    assert str(caught.value).startswith(f"{path}{message}")


def test_a_mistake_in_a_list_without_lines_names_its_place() -> None:
    with pytest.raises(ConfigError, match=r"^command line: blocks\.1: unknown key 'wrong'"):
        make_layer(Model, {"blocks": [{}, {"wrong": 1}]}, "command line")


def test_a_layer_inside_a_configuration_is_checked_and_flat(write: Write) -> None:
    text = "parts:\n- {name: a}\n- name: b\n  changes:\n    model: {size: nano}\n    model.depth: 2\n    out: ~/x\n"
    config = load(Parted, write(text))
    assert config.parts == (
        Part("a"), Part("b", {"model.size": "nano", "model.depth": 2, "out": Path.home() / "x"}),
    )  # fmt: skip
    assert load(Parted, write(to_yaml(config))) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            "{}\n- changes:\n    model:\n      dept: 3",
            ":5: parts: changes: unknown key 'model.dept'; did you",
        ),
        ("\n    steps: many", ':3: parts: changes: steps: expected int, got "many"'),
        ("\n    model:\n      blocks:\n      - {scal: 1}", ":5: parts: changes: model.blocks: unknown key 'scal'"),
        ("\n    steps: 1\n    steps: 2", ":4: key 'parts.0.changes.steps' is given twice (first on line 3)"),
        (" 3", ":2: parts: changes: expected a mapping with keys of its own, got 3"),
    ],
)
def test_a_mistake_in_a_layer_inside_is_told_with_its_line(write: Write, changes: str, message: str) -> None:
    path = write(f"parts:\n- changes: {changes}\n")
    with pytest.raises(ConfigError) as caught:
        load(Parted, path)
    assert str(caught.value).startswith(f"{path}{message}")


def test_a_changed_configuration_has_other_values_for_some_keys() -> None:
    config = Sample(Path("x"), steps=3, model=Model(size="tiny", depth=2))
    assert changed(config, {"model.depth": 5, "name": "b"}) == Sample(
        Path("x"), steps=3, name="b", model=Model(size="tiny", depth=5)
    )
    with pytest.raises(ConfigError, match="model: depth is 0, expected at least 1"):
        changed(config, {"model.depth": 0})
