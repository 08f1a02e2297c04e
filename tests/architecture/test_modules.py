"""Every module says what it is for, what it offers, and is small enough to read."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.architecture.source import Module, modules, stored

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60  # without its docstring

EVERY_MODULE = pytest.mark.parametrize("module", modules().values(), ids=str)
_EXCEPTION = re.compile(
    r"#\s*(?:noqa|type:\s*ignore|pragma:\s*no cover)"
    r"(?P<codes>:\s*[A-Z]+\d+(?:,\s*[A-Z]+\d+)*|\[[a-z\-, ]+\])?(?P<rest>.*)"
)


def bound(body: list[ast.stmt]) -> Iterator[tuple[str, ast.stmt]]:
    """Names a module's top level binds, conditions and ``try`` included."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node
        elif isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                yield (alias.asname or alias.name).split(".")[0], node
        elif isinstance(node, ast.If):
            yield from bound(node.body + node.orelse)
        elif isinstance(node, ast.Try):
            yield from bound(node.body + node.orelse + [each for handler in node.handlers for each in handler.body])
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            for name in stored(node):
                yield name, node


@EVERY_MODULE
def test_a_module_opens_with_what_it_is_for(module: Module) -> None:
    """The first thing in a file is a paragraph for someone who has never seen it."""
    assert ast.get_docstring(module.tree), f"{module} has no docstring"


@EVERY_MODULE
def test_all_is_honest(module: Module) -> None:
    """``__all__`` names what exists, and what is not in it begins with an underscore."""
    names = module.exported
    here = dict(bound(module.tree.body))
    lazy = "__getattr__" in here
    missing = [name for name in names if name not in here and f"{module.name}.{name}" not in modules()]
    assert lazy or not missing, f"{module}: __all__ names what the file does not define: {missing}"
    public = {name for name, node in here.items() if not isinstance(node, ast.Import | ast.ImportFrom)}
    unlisted = sorted(name for name in public - set(names) if not name.startswith("_"))
    assert not unlisted, f"{module}: public but not in __all__: {unlisted}; list them or begin them with an underscore"


@EVERY_MODULE
def test_only_public_names_are_imported_by_others(module: Module) -> None:
    """What a module takes from another is in the other's ``__all__``."""
    for each in module.imports:
        other = modules().get(each.module)
        if other is None or each.name is None or f"{each.module}.{each.name}" in modules():
            continue
        assert each.name in other.exported, f"{module}:{each.line} takes {each.name}, which {other} does not offer"


@EVERY_MODULE
def test_a_file_is_at_most_400_lines(module: Module) -> None:
    """A longer file is a question: which two things is it?"""
    count = module.text.count("\n")
    assert count <= MAX_FILE_LINES, f"{module} has {count} lines"


@EVERY_MODULE
def test_a_function_is_at_most_60_lines(module: Module) -> None:
    """A longer function is the same question; its docstring does not count."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            first = node.body[0]
            documented = ast.get_docstring(node) is not None and first.end_lineno is not None
            docstring = first.end_lineno - first.lineno + 1 if documented and first.end_lineno else 0
            count = node.end_lineno - node.lineno + 1 - docstring
            assert count <= MAX_FUNCTION_LINES, f"{module}:{node.lineno} {node.name} has {count} lines"


@EVERY_MODULE
def test_every_linter_exception_carries_its_reason(module: Module) -> None:
    """``# noqa: X - why`` (or a comment on the line above); a bare one hides the next mistake too."""
    lines = module.text.splitlines()
    for number, line in enumerate(lines, start=1):
        found = _EXCEPTION.search(line)
        if found is None:
            continue
        above = lines[number - 2].strip() if number > 1 else ""
        assert found["codes"] or "pragma" in found[0], f"{module}:{number} switches off every rule: name the one"
        assert len(found["rest"].strip(" -—()#.")) >= 5 or above.startswith("#"), f"{module}:{number} gives no reason"
