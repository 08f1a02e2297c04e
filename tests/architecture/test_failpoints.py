"""Every failpoint stands in the code, and every one in the code is in the table."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.architecture.source import Module, modules
from tunesafe.failpoints import FAILPOINTS


def passed() -> Iterator[tuple[str | None, Module, int]]:
    """Name, module and line of every call of ``failpoint``; the name is None if it is not a literal."""
    for module in modules().values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == "failpoint":
                literal = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else None
                yield literal if isinstance(literal, str) else None, module, node.lineno


def test_every_call_names_a_failpoint_of_the_table() -> None:
    """A misspelt name would be a place where nothing ever dies."""
    for name, module, line in passed():
        assert name in FAILPOINTS, f"{module}:{line} passes {name!r}: not a literal name of FAILPOINTS"


def test_every_failpoint_of_the_table_stands_in_the_code() -> None:
    """The crash matrix kills at each name; one without a place would prove nothing."""
    missing = sorted(FAILPOINTS.keys() - {name for name, _, _ in passed()})
    assert not missing, f"no failpoint(...) call for: {', '.join(missing)}"
