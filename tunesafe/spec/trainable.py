"""Whether the trainable that a study names can be there, found out without running it.

``FILE.py:NAME`` must be a file next to the study file (or at an absolute path), parse as
Python, and bind NAME at its top level. ``package.module:NAME`` is only taken apart: finding
a module may run its parents' code, which is for whoever imports it.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tunesafe.errors import SpecError
from tunesafe.spec.faults import nearest
from tunesafe.spec.study import StudySpec

__all__ = ["TrainableFile", "check_trainable"]


@dataclass(frozen=True, slots=True)
class TrainableFile:
    """A trainable's address, taken apart.

    Args:
        name: What to import from the file or module.
        path: Its file, absolute; None for a module.
        module: Its dotted module name; None for a file.
    """

    name: str
    path: Path | None = None
    module: str | None = None


def check_trainable(spec: StudySpec) -> TrainableFile:
    """Check the trainable of a study without importing it.

    Raises:
        SpecError: If there is none, its file is missing or is not Python (the place is then the
            one in that file), or nothing in it has the name.
    """
    if spec.trainable is None:
        raise spec.error("trainable", "missing; write FILE.py:NAME or package.module:NAME")
    source, _, name = spec.trainable.rpartition(":")
    if not source.endswith(".py"):
        return TrainableFile(name, module=source)
    path = (spec.folder or Path.cwd()) / Path(source).expanduser()
    try:
        tree = ast.parse(path.read_bytes(), filename=str(path))
    except (FileNotFoundError, IsADirectoryError):
        raise spec.error("trainable", f"trainable file '{source}' does not exist{_similar(path)}") from None
    except OSError as error:
        raise spec.error("trainable", f"trainable file '{source}' cannot be read: {error.strerror}") from None
    except (SyntaxError, ValueError) as error:  # ValueError: NUL bytes; encodings are syntax errors
        line, column = getattr(error, "lineno", None), getattr(error, "offset", None)
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        raise SpecError(f"the trainable is not Python: {reason}", file=str(path), line=line, column=column) from None
    bound = dict.fromkeys(_bound(tree.body))
    if name not in bound and "*" not in bound:
        candidates = [node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
        hint = nearest(name, candidates, what="it defines") if candidates else "; it defines no function and no class"
        raise spec.error("trainable", f"nothing in '{source}' is called '{name}'{hint}")
    return TrainableFile(name, path=path.absolute())


def _similar(path: Path) -> str:
    names = sorted(entry.name for entry in path.parent.glob("*.py")) if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean '{close[0]}'?" if close else f"; looked for '{path}'"


def _bound(body: list[ast.stmt]) -> Iterator[str]:
    """Names that running these statements may bind; '*' after a star import."""
    for statement in body:
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield statement.name
            continue
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id
            elif isinstance(node, ast.alias):
                yield node.asname or node.name.partition(".")[0]
            elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):  # under `if`, `try` or `with`
                yield node.name
