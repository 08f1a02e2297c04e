"""The documentation names only what exists, and everything a user can type stands in it.

Judged from the Markdown files' code blocks, inline code and tables: command lines against
the commands' help, study files and their defaults against the JSON Schema, Python against
the public names, named tests against the tests, computed numbers against a computation.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import TypeAdapter
from ruamel.yaml import YAML

from tests.architecture.commands import commands, help_of
from tests.architecture.source import ROOT, modules
from tunesafe.clock import Plan
from tunesafe.contracts import Position
from tunesafe.errors import ExitCode
from tunesafe.spec import Budget
from tunesafe.spec.values import Duration, SizeOrOff

DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])
SCHEMA = ROOT / "studies" / "study.schema.json"

_FENCE = re.compile(r"^```(?P<language>[\w-]*)[^\n]*\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_LINK = re.compile(r"\[[^\]]*\]\((?!\w+:|#)(?P<target>[^)#\s]+)[^)]*\)")
_TEST = re.compile(r"(?P<file>tests/[\w/]+\.py)(?:::(?P<name>test_\w+))?|`(?P<bare>test_\w+)`")
_SHELL = ("sh", "bash", "shell", "console")

EVERY_DOCUMENT = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def blocks(text: str, *languages: str) -> list[str]:
    """Fenced blocks in one of the languages."""
    return [found["text"] for found in _FENCE.finditer(text) if found["language"] in languages]


def command_lines(text: str, program: str) -> Iterator[list[str]]:
    """Words after a program's name, from shell blocks and inline code."""
    candidates = [line for block in blocks(text, *_SHELL) for line in block.replace("\\\n", " ").splitlines()]
    candidates += _INLINE.findall(_FENCE.sub("", text))
    for line in candidates:
        for part in re.split(r"&&|\||;", line):
            words = part.split("#")[0].removeprefix("$ ").replace("[", " ").replace("]", " ").split()
            if words and words[0].rpartition("/")[2] == program:
                yield words[1:]


@EVERY_DOCUMENT
def test_command_lines_in_the_docs_can_be_typed(path: Path) -> None:
    """Commands and their options exist."""
    groups = {command.split()[0] for command in commands() if " " in command}
    for words in command_lines(path.read_text(encoding="utf-8"), "tunesafe"):
        first = words[0] if words else ""
        command = tuple(words[: 2 if first in groups else 1]) if re.fullmatch(r"[a-z]+", first) else ()
        assert help_of(*command), f"{path.name}: there is no command 'tunesafe {' '.join(command)}'"
        options = [word.split("=")[0] for word in words if re.match(r"--?[a-zA-Z]", word)]
        unknown = [option for option in options if not re.search(rf"(?<![\w-]){option}(?![\w-])", help_of(*command))]
        assert not unknown, f"{path.name}: 'tunesafe {first}' has no option {unknown}"


@EVERY_DOCUMENT
def test_make_targets_in_the_docs_exist(path: Path) -> None:
    """``make X`` does something for every X."""
    targets = set(re.findall(r"^([\w.-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for words in command_lines(path.read_text(encoding="utf-8"), "make"):
        named = {word for word in words if re.fullmatch(r"[a-z][\w-]*", word)}
        assert named <= targets, f"{path.name}: the Makefile has no target {sorted(named - targets)}"


@EVERY_DOCUMENT
def test_study_files_in_the_docs_are_valid(path: Path) -> None:
    """A piece of a study file is valid as far as it goes; only what is left out may be missing."""
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))
    for text in blocks(path.read_text(encoding="utf-8"), "yaml"):
        faults = [error for error in validator.iter_errors(plain(text)) if error.validator != "required"]
        assert not faults, f"{path.name}: {faults[0].json_path}: {faults[0].message}"


def plain(text: str) -> Any:
    """YAML as a study file is read."""
    return YAML(typ="safe", pure=True).load(text)


@EVERY_DOCUMENT
def test_python_in_the_docs_uses_public_names(path: Path) -> None:
    """Examples are Python, and every ``tunesafe.X`` and ``trial.X`` in them exists."""
    public = {*modules()["tunesafe"].exported, *(name.split(".")[1] for name in modules() if "." in name)}
    context = modules().get("tunesafe.trial.context")
    members = {name for name, _ in attributes(context.tree, "Trial")} if context else None
    for text in blocks(path.read_text(encoding="utf-8"), "python"):
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.Attribute) or not isinstance(node.value, ast.Name):
                continue
            if node.value.id == "tunesafe":
                assert node.attr in public, f"{path.name}: there is no tunesafe.{node.attr}"
            elif node.value.id == "trial" and members:
                assert node.attr in members, f"{path.name}: there is no trial.{node.attr}"


def attributes(tree: ast.Module, owner: str) -> Iterator[tuple[str, int]]:
    """What a class offers: methods, class attributes, and what its methods set on ``self``."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == owner:
            for each in ast.walk(node):
                if isinstance(each, ast.FunctionDef):
                    yield each.name, each.lineno
                elif isinstance(each, ast.Attribute) and isinstance(each.ctx, ast.Store):
                    yield each.attr, each.lineno
                elif isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name):
                    yield each.target.id, each.lineno


@EVERY_DOCUMENT
def test_links_between_documents_lead_somewhere(path: Path) -> None:
    """Relative links name files of the repository."""
    for found in _LINK.finditer(_FENCE.sub("", path.read_text(encoding="utf-8"))):
        assert (path.parent / found["target"]).exists(), f"{path.name} links to {found['target']}"


def test_every_command_is_documented() -> None:
    """Whoever reads the documents meets every command."""
    everything = "\n".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)
    missing = [command for command in commands() if f"tunesafe {command}" not in everything]
    assert commands()
    assert not missing


def rows(path: Path, *heading: str) -> Iterator[list[str]]:
    """Cells of the rows of every table whose heading begins with these words."""
    inside = False
    for line in path.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            inside = False
        elif inside and not set(line) <= set("|-: "):
            yield cells
        elif not inside:
            inside = tuple(cells[: len(heading)]) == heading


def schema_keys(schema: dict[str, Any], at: str, definitions: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every key of the study file by its path, with its schema; ``*`` stands for a parameter's name."""
    if "$ref" in schema:
        target = definitions[schema["$ref"].rpartition("/")[2]]
        for key, value in target.get("properties", {}).items():
            path = f"{at}.{key}".lstrip(".")
            yield path, {"required": key in target.get("required", ()), **value}
            yield from schema_keys(value, path, definitions)
    for alternatives in ("anyOf", "oneOf"):
        for option in schema.get(alternatives, ()):
            yield from schema_keys(option, at, definitions)
    if isinstance(schema.get("additionalProperties"), dict) and at == "parameters":
        yield from schema_keys(schema["additionalProperties"], f"{at}.*", definitions)


def test_every_key_of_the_study_file_stands_in_its_guide_with_its_default() -> None:
    """What the guide says about leaving a key out is what happens."""
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    whole = {"$ref": "#/study", "study": schema}
    keys = dict(schema_keys(whole, "", {**schema["$defs"], "study": schema}))
    told = {key.strip("`"): default for key, default, _ in rows(ROOT / "docs" / "study-file.md", "key", "default")}
    assert sorted(told) == sorted(keys)
    assert len(keys) > 40
    for key, value in keys.items():
        default = value.get("default")
        assert (told[key] == "required") is value["required"], key
        if default not in (None, {}) and key != "checkpoint" and "*" not in key:  # checkpoint's are told one by one
            assert said(told[key], default) == default, f"{key}: the guide says {told[key]}, the schema {default}"


def said(cell: str, default: Any) -> Any:
    """The value a cell of the guide shows, as the schema spells it."""
    value = plain(cell.strip("`"))
    if isinstance(default, float) and isinstance(value, str):
        return TypeAdapter(Duration).validate_python(value)
    if isinstance(default, int) and isinstance(value, str):
        return TypeAdapter(SizeOrOff).validate_python(value)
    if isinstance(default, dict) and isinstance(value, dict):
        return {**dict.fromkeys(default), **value}
    return value


def test_tests_named_in_the_documents_exist() -> None:
    """An invariant is held by a test that is there."""
    text = {path: path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")}
    defined = {path: set(re.findall(r"^def (test_\w+)", source, re.MULTILINE)) for path, source in text.items()}
    named = [(document, found) for document in DOCUMENTS for found in _TEST.finditer(document.read_text("utf-8"))]
    assert len(named) > 20
    for document, found in named:
        if found["bare"]:
            known = set().union(*defined.values())
            assert found["bare"] in known, f"{document.name}: there is no test {found['bare']}"
        else:
            path = ROOT / found["file"]
            assert path.exists(), f"{document.name}: there is no {found['file']}"
            assert not found["name"] or found["name"] in defined[path], f"{document.name}: no {found[0]}"


def test_every_room_stands_in_the_architecture() -> None:
    """Whoever looks for a room finds its floor."""
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    packages = {name.split(".")[1]: module for name, module in modules().items() if name.count(".") == 1}
    rooms = {
        f"{room}/" if module.path.name == "__init__.py" else f"{room}.py"
        for room, module in packages.items()
        if not room.startswith("_")
    }
    assert rooms
    assert not [room for room in sorted(rooms) if not re.search(rf"(?<![\w/]){re.escape(room)}", page)]


def test_the_table_of_the_usual_formula_is_computed() -> None:
    """What ``total // (batch_size * checkpoints)`` loses, and that the clock loses nothing."""
    total = Budget(passes=14.3, virtual_epochs=15).total_examples(1437)  # type: ignore[arg-type]  # kept exactly
    table = list(rows(ROOT / "README.md", "batch size", "the usual formula trains on"))
    assert total == 20_549
    for batch_size, trains_on, loses, ours in table:
        size = int(batch_size)
        used = total // (size * 15) * 15 * size
        consumed = sum(batch.size for batch in Plan(total, 15, size).batches(Position(0, 0)))
        assert (trains_on, loses) == (f"{used:,}", f"{100 * (1 - used / total):.1f} %")
        assert ours == f"{consumed:,}" == f"{total:,}"
    assert {"1000", "1500"} <= {row[0] for row in table}


def test_exit_codes_are_documented() -> None:
    """Every one, and no other."""
    assert [int(code) for code, *_ in rows(ROOT / "README.md", "code", "means")] == [*ExitCode]
