"""No code hides in state: nothing in the package pickles, unpickles or evaluates."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.architecture.source import Module, modules

BANNED_MODULES = frozenset(
    {
        "pickle",
        "_pickle",
        "cPickle",
        "pickletools",
        "copyreg",
        "marshal",
        "shelve",
        "dbm",
        "dill",
        "cloudpickle",
        "jsonpickle",
    }
)
# By full name, whatever it was imported as.
BANNED_NAMES = frozenset(
    {
        "torch.load",
        "torch.save",
        "torch.serialization",
        "torch.jit.load",
        "torch.package",
        "torch.hub",
        "joblib.load",
        "joblib.dump",
        "joblib.externals",
        "numpy.load",
        "numpy.save",
        "numpy.savez",
        "pandas.read_pickle",
        "sqlalchemy.PickleType",
        "sqlalchemy.types.PickleType",
        "sqlalchemy.ext.serializer",
        "multiprocessing.reduction",
        "builtins.eval",
        "builtins.exec",
    }
)
BANNED_KEYWORDS = frozenset({"allow_pickle"})


def used_names(module: Module) -> Iterator[tuple[str, int]]:
    """Full dotted name and line of everything a module imports or reaches by attribute."""
    meaning = {"eval": "builtins.eval", "exec": "builtins.exec", "__import__": "builtins.__import__"}
    for each in module.imports:
        yield each.module, each.line
        if each.name is not None:
            yield f"{each.module}.{each.name}", each.line
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                meaning[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                meaning[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute | ast.Name) and (dotted := _dotted(node)):
            head, _, rest = dotted.partition(".")
            if head in meaning:
                yield ".".join([meaning[head], *([rest] if rest else [])]), node.lineno


def _dotted(node: ast.expr) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (head := _dotted(node.value)):
        return f"{head}.{node.attr}"
    return None


def banned(name: str) -> bool:
    """Whether a full name is, or lies inside, something that runs code from data."""
    return name.split(".", maxsplit=1)[0] in BANNED_MODULES or any(
        name == each or name.startswith(f"{each}.") for each in BANNED_NAMES
    )


def violations(module: Module) -> list[str]:
    """Every place where a module could run what it reads."""
    found = [f"{module}:{line} uses {name}" for name, line in used_names(module) if banned(name)]
    found += [
        f"{module}:{node.value.lineno} passes {node.arg}"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.keyword) and node.arg in BANNED_KEYWORDS
    ]
    return sorted(set(found))


@pytest.mark.parametrize("module", modules().values(), ids=str)
def test_nothing_is_pickled_or_evaluated(module: Module) -> None:
    """State is JSON and raw bytes; a database someone else wrote to cannot run code here."""
    assert not violations(module)


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "def f():\n    import cloudpickle as c",
        "import importlib\nimportlib.import_module('dill')",
        "import torch\ntorch.load('x')",
        "import torch as t\nt.load('x')",
        "from torch import load as read",
        "import joblib\njoblib.load('x')",
        "from sqlalchemy import PickleType",
        "import sqlalchemy as sa\nsa.PickleType()",
        "import numpy as np\nnp.load('x')",
        "g(path, allow_pickle=True)",
        "eval('1')",
    ],
)
def test_the_guard_sees_through_aliases(source: str) -> None:
    """Renaming an import does not get past the test above."""
    some = next(iter(modules().values()))
    assert violations(Module(some.name, some.path, source, ast.parse(source)))
