"""The source files a trainable depends on, found without importing them.

A walk over import statements: from the trainable's module to every module it reaches in
its own folder (or, for an installed package, in that package), packages and imports inside
functions included. What it finds is stored with the study and fingerprinted as syntax
trees, so comments and formatting do not count as a change.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tunesafe.errors import SpecError
from tunesafe.spec.faults import nearest

__all__ = ["Origin", "fingerprint", "locate", "module_files", "sources"]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a trainable is defined.

    Args:
        module: Name of its module.
        name: Its name there.
        path: The module's file; ``None`` where it has none we can read.
        root: The folder imports start from.
        base: The study file's folder; paths are shown relative to it.
        package: The top-level package of an installed module: among strangers, only its modules are the user's.
    """

    module: str
    name: str
    path: Path | None
    root: Path
    base: Path
    package: str | None = None

    @property
    def shown(self) -> str:
        """The module as the user knows it."""
        return self.module if self.path is None else self.show(self.path)

    def show(self, path: str | Path | None) -> str:
        """A path relative to the study file."""
        return self.module if path is None else os.path.relpath(Path(path).resolve(), self.base)


def locate(reference: str, folder: Path) -> Origin:
    """Find the file a reference names; imports nothing of the user's but parent packages.

    Args:
        reference: ``FILE.py:NAME`` relative to ``folder``, or ``package.module:NAME``.
        folder: The study file's folder.

    Raises:
        SpecError: If the reference is malformed, or the file or module does not exist.
    """
    folder = folder.resolve()
    place, colon, name = reference.rpartition(":")
    if not colon or not place or not name.isidentifier():
        raise SpecError(
            f"trainable {reference!r} is neither FILE.py:NAME nor package.module:NAME, "
            f"e.g. digits.py:train. Nothing was started."
        )
    if place.endswith(".py") or "/" in place or os.sep in place:
        path = (folder / place).resolve()
        if not path.is_file():
            neighbours = [entry.name for entry in path.parent.glob("*.py")] if path.parent.is_dir() else []
            hint = nearest(path.name, neighbours) or "."
            raise SpecError(f"trainable file {place!r} does not exist in {folder}{hint} Nothing was started.")
        return Origin(path.stem.replace(".", "_"), name, path, path.parent, folder)
    if not all(part.isidentifier() for part in place.split(".")):
        raise SpecError(f"trainable {reference!r}: {place!r} is neither a Python file nor a module name.")
    beside = _module_file(folder, place)
    if beside is not None:
        return Origin(place, name, beside, folder, folder)
    return _installed(place, name, folder)


def _installed(module: str, name: str, folder: Path) -> Origin:
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        spec = None
    if spec is None:
        raise SpecError(
            f"trainable module {module!r} is neither in {folder} nor installed. "
            f"Correct the name, or give a file, e.g. digits.py:train. Nothing was started."
        )
    path = Path(spec.origin).resolve() if spec.has_location and spec.origin and spec.origin.endswith(".py") else None
    if path is None:
        return Origin(module, name, None, folder, folder)
    depth = module.count(".") + (path.name == "__init__.py")
    return Origin(module, name, path, path.parents[depth], folder, package=module.partition(".")[0])


def _module_file(root: Path, module: str) -> Path | None:
    stem = root.joinpath(*module.split("."))
    for path in (stem / "__init__.py", stem.with_name(stem.name + ".py")):
        if path.is_file():
            return path.resolve()
    return None


def module_files(origin: Origin) -> dict[str, Path]:
    """Every module reached from a trainable inside its own folder or package, by name.

    Raises:
        SpecError: If one of them is not valid Python; file and line are named.
    """
    if origin.path is None:
        return {}
    found = {origin.module: origin.path}
    queue = [origin.module, *_parents(origin.module)]
    while queue:
        module = queue.pop()
        if origin.package is not None and module.partition(".")[0] != origin.package:
            continue
        path = found.get(module) or _module_file(origin.root, module)
        if path is None and origin.package is None:  # beside the study file, reached over a path user code adds
            path = _module_file(origin.base, module)
        if path is None:
            continue
        first_visit = module not in found or module == origin.module
        found[module] = path
        if first_visit:
            tree = _parse(_read(path, origin.show(path)), origin.show(path))
            for imported in _imports(tree, module, is_package=path.name == "__init__.py"):
                queue += [name for name in (imported, *_parents(imported)) if name not in found]
    return found


def _parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def _imports(tree: ast.Module, module: str, *, is_package: bool) -> Iterator[str]:
    """Names that may be modules; those that are not have no file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                kept = parts[: len(parts) - node.level + is_package]
                base = ".".join([*kept, base] if base else kept)
            if base:
                yield base
            yield from (f"{base}.{alias.name}" if base else alias.name for alias in node.names if alias.name != "*")


def sources(reference: str, folder: Path) -> dict[str, str]:
    """The text of every module a trainable reaches, by path relative to the study file.

    Args:
        reference: ``FILE.py:NAME`` relative to ``folder``, or ``package.module:NAME``.
        folder: The study file's folder.

    Raises:
        SpecError: As :func:`locate`; or if a file is not valid Python.
    """
    origin = locate(reference, folder)
    texts = {
        Path(origin.show(path)).as_posix(): _read(path, origin.show(path)) for path in module_files(origin).values()
    }
    return dict(sorted(texts.items()))


def fingerprint(texts: Mapping[str, str]) -> str:
    """One hash over the syntax trees of some sources: comments and formatting do not change it.

    What a newer Python adds to its trees, empty, does not count either.

    Example:
        >>> fingerprint({"a.py": "x = 1  # one"}) == fingerprint({"a.py": "x=1"})
        True
        >>> fingerprint({"a.py": "x = 1"}) == fingerprint({"a.py": "x = 1.0"})
        False
    """
    digest = hashlib.blake2b(digest_size=16)
    for path, text in sorted(texts.items()):
        tree = _parse(text, path)
        for token in (path, *_tokens(tree)):
            digest.update(token.encode("utf-8", errors="surrogatepass") + b"\0")
    return digest.hexdigest()


def _tokens(tree: ast.Module) -> Iterator[str]:
    """The tree as an unambiguous sequence, without what is empty or mere notation."""
    stack: list[object] = [tree]
    while stack:
        item = stack.pop()
        if isinstance(item, _Token):
            yield item
        elif isinstance(item, ast.AST):
            yield f"{type(item).__name__}("
            stack.append(_Token(")"))
            for field, value in reversed(list(ast.iter_fields(item))):
                if value is not None and value != [] and field != "kind":  # kind tells u"x" from "x"
                    stack += [value, _Token(f"{field}=")]
        elif isinstance(item, list):
            yield "["
            stack += [_Token("]"), *reversed(item)]
        else:
            yield repr(item)


class _Token(str):
    """Text that is already a token, not a constant of the program."""

    __slots__ = ()


def _read(path: Path, shown: str) -> str:
    try:
        return importlib.util.decode_source(path.read_bytes())
    except (SyntaxError, UnicodeDecodeError) as error:
        raise SpecError(f"cannot be read as Python text: {error}. Nothing was started.", file=shown) from error


def _parse(text: str, shown: str) -> ast.Module:
    try:
        return ast.parse(text, filename=shown)
    except SyntaxError as error:
        raise SpecError(
            f"syntax error: {error.msg}. Nothing was started.", file=shown, line=error.lineno, column=error.offset
        ) from error
    except (ValueError, RecursionError, MemoryError) as error:  # a null byte, or an expression nested too deep
        raise SpecError(f"not valid Python: {error}. Nothing was started.", file=shown) from error
