"""What is written for people is held against the code: shipped configurations, verbs, options, links."""

import ast
import pkgutil
import re
from pathlib import Path

import pytest

from jepa.cli import VERBS, load_command, main
from jepa.config import options, read_layer, shipped_configs
from jepa.data.mixture import read_mixture
from jepa.errors import ConfigError

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
CONFIGS = shipped_configs()
COMMAND = re.compile(r"(?:^|`|\$ |&& )\s*jepa ([a-z]+)\b((?:\\\n|[^`\n])*)", re.MULTILINE)


def commands(text: str) -> list[tuple[str, list[str]]]:
    """Verb and options of each `jepa ...` command in code spans and code blocks; that of `jepa submit` is one more."""
    found: list[tuple[str, str]] = []
    for block in re.findall(r"```.*?```|`[^`\n]+`", text, re.DOTALL):
        for match in COMMAND.finditer(block):
            outer, _, inner = match[2].partition(" -- ")
            found.append((match[1], outer))
            if submitted := inner.split(maxsplit=1):
                found.append((submitted[0], submitted[-1]))
    return [(verb, re.findall(r"(?<!\S)--([a-z][\w.-]*)", options)) for verb, options in found]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_shipped_configuration_is_short_and_opens_with_its_command(name: str) -> None:
    lines = CONFIGS[name].read_text("utf-8").splitlines()
    assert len(lines) < 40
    assert lines[0].startswith("# ")
    comment = " ".join(line for line in lines if line.startswith("#"))
    assert re.search(r"\bjepa (" + "|".join(VERBS) + r")\b", comment), "the first comment is the command that runs it"


@pytest.mark.parametrize("name", CONFIGS)
def test_a_shipped_configuration_fits_a_verb(name: str) -> None:
    comment = " ".join(line for line in CONFIGS[name].read_text("utf-8").splitlines() if line.startswith("#"))
    verbs = [verb for verb in VERBS if f"jepa {verb}" in comment]
    if name == "data/mixture":  # not the options of a verb, but what its --data names
        assert verbs == ["order", "pretrain"]
        assert read_mixture(CONFIGS[name]).sources
        return
    complaints = []
    for verb in verbs:
        try:
            read_layer(load_command(verb).Config, CONFIGS[name])
            return
        except ConfigError as error:
            complaints.append(str(error))
    pytest.fail("; ".join(complaints))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documents_name_only_verbs_and_options_that_exist(document: Path) -> None:
    for verb, names in commands(document.read_text("utf-8")):
        assert verb in VERBS, f"{document.name} names the verb '{verb}'"
        known = {"config", "print_config", "help", *options(load_command(verb).Config)}
        unknown = [name for name in names if name.replace("-", "_").rstrip(".") not in known]
        assert not unknown, f"{document.name}: jepa {verb} has no option {unknown}"


def test_the_search_finds_commands() -> None:
    text = "```\njepa pack a \\\n  --out x\nmake demo\n```\nand `jepa fly --high`, `jepa submit --nodes 2 -- go --far`"
    assert commands(text) == [("pack", ["out"]), ("fly", ["high"]), ("submit", ["nodes"]), ("go", ["far"])]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documents_link_only_to_files_that_exist(document: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", document.read_text("utf-8"))
    assert not [link for link in links if not (document.parent / link).exists()]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documents_name_only_python_that_exists(document: Path) -> None:
    """Dotted names (`jepa.load_encoder`) in code, and what `from jepa.x import ...` imports."""
    for code in re.findall(r"```.*?```|`[^`\n]+`", document.read_text("utf-8"), re.DOTALL):
        names = re.findall(r"\bjepa(?:\.[A-Za-z_]\w*)+", code)
        for module, found in re.findall(r"from (jepa[\w.]*) import ([\w, ]+)", code):
            names += [f"{module}.{name.strip()}" for name in found.split(",")]
        assert not [name for name in names if not exists(name)], document.name


def exists(name: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


def test_the_search_tells_what_exists() -> None:
    assert exists("jepa.load_encoder")
    assert exists("jepa.data.decode")
    assert not exists("jepa.SavedModel")
    assert not exists("jepa.data.decoding")


def test_examples_of_the_help_parse(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in VERBS:
        arguments = load_command(verb).EXAMPLE.split()
        assert arguments[:2] == ["jepa", verb]
        assert main([*arguments[1:], "--print-config"]) == 0, capsys.readouterr().err


TROUBLE = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")


def said() -> set[str]:
    """Every text in the source of the package, with … where a value or a place holder stands."""
    found = set()
    for folder in (ROOT / "jepa", *(path for path in (ROOT / "jepa").iterdir() if path.is_dir())):
        for path in {*folder.glob("*.py"), *folder.glob("*/*.py")}:
            nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
            comments = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
            for node in nodes:
                if id(node) in comments:  # docstrings are not said
                    continue
                if isinstance(node, ast.JoinedStr):
                    parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
                    found.add("".join(map(str, parts)))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.add(re.sub(r"%[.\d]*[sdfg]", "…", node.value).replace("%%", "%"))
    return found


def unsaid(message: str, texts: set[str]) -> bool:
    """Whether no single text holds what stands between the … of a message, part by part.

    Between two parts there is a place holder in the source too, or they would be one; and where the message goes on
    without …, so does the text.
    """
    pattern = r"[^\n]*?…[^\n]*?".join(re.escape(part) for part in message.removesuffix(" …").strip("…").split("…"))
    return not any(re.search(pattern, text) for text in texts)


def test_the_messages_in_the_troubleshooting_are_those_of_the_program() -> None:
    messages = re.findall(r"^> (.+)$", TROUBLE, re.MULTILINE)
    assert len(messages) > 20
    texts = said()
    assert [message for message in messages if unsaid(message, texts)] == []


def test_the_search_for_messages_can_fail() -> None:
    texts = {"the checkpoint of step … cannot be used, that of … is", "step …: … cannot be used", "a …"}
    assert not unsaid("the checkpoint of step … cannot be used, that of … is", texts)
    assert not unsaid("… cannot be used, that …", texts)
    assert unsaid("the checkpoint of step … cannot be used, this of … is", texts)
    assert unsaid("the checkpoint … step … cannot be used", texts), "there is no place holder"
    assert unsaid("that of … is used", texts)
    assert unsaid("a … cannot be used", texts), "its parts are in two texts"
    assert not unsaid("run.loggers names …, which is not installed", said())


def test_the_keys_in_the_troubleshooting_exist() -> None:
    known = options(load_command("pretrain").Config)
    groups = "|".join(sorted({key.split(".")[0] for key in known if "." in key}))
    named = {
        key
        for code in re.findall(r"`[^`\n]+`", TROUBLE)
        for key in re.findall(rf"(?<![\w./])(?:{groups})(?:\.\w+)+", code)
    }
    assert len(named) > 20
    whole = {key.rsplit(".", count)[0] for key in known for count in range(key.count(".") + 1)}
    assert not {key for key in named if key not in whole and not key.endswith((".csv", ".safetensors"))}


def test_every_entry_of_the_troubleshooting_is_in_its_table() -> None:
    links = re.findall(r"\]\(#([\w-]+)\)", TROUBLE)
    entries = [
        re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^### (.+)$", TROUBLE, re.M)
    ]
    assert sorted(links) == sorted(entries)
