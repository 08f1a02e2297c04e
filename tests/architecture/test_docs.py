"""The documentation names only what exists, and everything a user can type stands in it.

Judged from the Markdown files' code blocks and inline code: command lines against the
commands' help, study files against the JSON Schema, Python against the public names.
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
from ruamel.yaml import YAML

from tests.architecture.commands import commands, help_of
from tests.architecture.source import ROOT, modules

DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])
SCHEMA = ROOT / "studies" / "study.schema.json"

_FENCE = re.compile(r"^```(?P<language>[\w-]*)[^\n]*\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_LINK = re.compile(r"\[[^\]]*\]\((?!\w+:|#)(?P<target>[^)#\s]+)[^)]*\)")
_SHELL = ("sh", "bash", "shell", "console")

EVERY_DOCUMENT = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
needs_readme = pytest.mark.skipif(not (ROOT / "README.md").exists(), reason="the README is not written yet")


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
    for words in command_lines(path.read_text(encoding="utf-8"), "tunesafe"):
        first = words[0] if words else ""
        command = (first,) if re.fullmatch(r"[a-z]+", first) else ()
        assert help_of(*command), f"{path.name}: there is no command 'tunesafe {first}'"
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


@needs_readme
def test_every_command_is_documented() -> None:
    """Whoever reads the documents meets every command."""
    everything = "\n".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)
    missing = [command for command in commands() if f"tunesafe {command}" not in everything]
    assert commands()
    assert not missing


@needs_readme
def test_every_key_of_the_study_file_is_documented() -> None:
    """Whoever reads the documents meets every top-level key."""
    everything = "\n".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)
    keys = json.loads(SCHEMA.read_text(encoding="utf-8"))["properties"]
    missing = [key for key in keys if not re.search(rf"\b{key}:|`{key}`", everything)]
    assert not missing
