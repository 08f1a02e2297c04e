"""The package as syntax trees, parsed once: what the architecture tests look at.

Nothing here imports tunesafe, so a broken module is judged by what it says, not by
whether it runs.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = ["PACKAGE", "ROOT", "Import", "Module", "modules", "stored"]

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "tunesafe"


@dataclass(frozen=True)
class Import:
    """One imported module (or name in a module), absolute, as written at ``line``."""

    module: str
    name: str | None
    line: int


@dataclass(frozen=True)
class Module:
    """One source file of the package."""

    name: str
    path: Path
    text: str
    tree: ast.Module

    def __str__(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    @property
    def imports(self) -> Iterator[Import]:
        """Every import in the file, inside functions and conditions too."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield Import(alias.name, None, node.lineno)
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    yield Import(self._absolute(node), alias.name, node.lineno)
            elif isinstance(node, ast.Call) and _called(node) in ("import_module", "__import__"):
                for argument in node.args[:1]:
                    if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                        yield Import(argument.value, None, node.lineno)

    @property
    def exported(self) -> list[str]:
        """``__all__`` as the source spells it; a file that is only a docstring offers nothing."""
        for node in self.tree.body:
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None and "__all__" in stored(node):
                names: list[str] = ast.literal_eval(node.value)
                return names
        assert all(isinstance(node, ast.Expr) for node in self.tree.body), f"{self} has no __all__"
        return []

    def _absolute(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        is_package = self.path.name == "__init__.py"
        parents = self.name.split(".")[: len(self.name.split(".")) - node.level + is_package]
        return ".".join([*parents, *([node.module] if node.module else [])])


@cache
def modules() -> dict[str, Module]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        text = path.read_text(encoding="utf-8")
        found[name] = Module(name, path, text, ast.parse(text, filename=str(path)))
    return found


def stored(node: ast.Assign | ast.AnnAssign) -> list[str]:
    """Names an assignment binds, unpacked ones too."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    every = (each for target in targets for each in ast.walk(target))
    return [each.id for each in every if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)]


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
