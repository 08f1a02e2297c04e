"""From ``digits.py:train`` to the function, and to the sources it depends on.

Importing user code is the first thing that can go wrong, so every way it can is one error
that names file and line. Sources are found without importing anything: by walking the
import statements of the trainable and of every module it reaches in its own folder.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from tunesafe.errors import SpecError, TunesafeError, a_or_an
from tunesafe.spec.faults import nearest
from tunesafe.trial.importing import importing
from tunesafe.trial.sources import Origin, locate, module_files
from tunesafe.trial.trainable import Trainable

__all__ = ["resolve"]


def resolve(reference: str, folder: Path) -> Callable[..., Any]:
    """Import what a study file's ``trainable`` names.

    The module's folder goes to the front of ``sys.path``, as for a script, so its
    neighbours can be imported. Resolving again gives the same object.

    Args:
        reference: ``FILE.py:NAME`` relative to ``folder``, or ``package.module:NAME``.
        folder: The study file's folder.

    Returns:
        A function of one argument, or a subclass of ``Trainable``.

    Raises:
        SpecError: If file or module are missing, do not compile, raise while imported, or
            hold no such callable; file and line are those of the user's code.
    """
    origin = locate(reference, folder)
    root = str(origin.root)
    if root not in sys.path:
        sys.path.insert(0, root)
    with importing():
        module = _import(origin)
    return _pick(module, origin)


def _import(origin: Origin) -> ModuleType:
    _refuse_namesakes(origin)
    loaded = sys.modules.get(origin.module)
    if origin.path is None or _is_from(loaded, origin.path) or (loaded is None and _finds(origin)):
        name = origin.module
    else:  # the name is taken (a file called random.py, another study's train.py): import it under its own
        name = f"{origin.module}_{hashlib.blake2b(str(origin.path).encode(), digest_size=4).hexdigest()}"
        if name not in sys.modules:
            return _load_as(name, origin)
    try:
        return importlib.import_module(name)
    except Exception as error:  # noqa: BLE001 (user code may raise anything while it is imported)
        _explain(error, origin)


def _finds(origin: Origin) -> bool:
    importlib.invalidate_caches()  # the file may be younger than the import system's view of its folder
    try:
        found = importlib.util.find_spec(origin.module)
    except ImportError:
        return True  # a parent package that cannot be imported: let the import itself say why
    return found is not None and found.origin is not None and Path(found.origin).resolve() == origin.path


def _load_as(name: str, origin: Origin) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, str(origin.path))
    assert spec, "locate() only gives Python files"
    assert spec.loader, "and those have a loader"
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # noqa: BLE001 (user code, as above)
        del sys.modules[name]
        _explain(error, origin)
    return module


def _is_from(module: ModuleType | None, path: Path) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and Path(file).resolve() == path


def _refuse_namesakes(origin: Origin) -> None:
    """Refuse to run on helpers another study brought into this process under the same name."""
    for name, path in module_files(origin).items():
        loaded = sys.modules.get(name)
        file = getattr(loaded, "__file__", None)
        if name != origin.module and file is not None and Path(file).resolve() != path:
            raise SpecError(
                f"{origin.shown} imports {name!r} from {path.name}, but this process already holds another module "
                f"of that name, from {file}. Nothing was started. Rename one of them, or run each study in a process "
                f"of its own."
            )


def _explain(error: Exception, origin: Origin) -> NoReturn:
    """Say where in the user's file an import went wrong."""
    if isinstance(error, TunesafeError):
        raise error
    if isinstance(error, SyntaxError):
        raise SpecError(
            f"syntax error: {error.msg}. Nothing was started.",
            file=origin.show(error.filename), line=error.lineno, column=error.offset,
        ) from error  # fmt: skip
    file, line = origin.shown, None
    for frame in traceback.extract_tb(error.__traceback__):
        if Path(frame.filename).resolve().is_relative_to(origin.root):
            file, line = origin.show(frame.filename), frame.lineno
    what = str(error) if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"
    advice = (
        " Install it, or correct the name." if isinstance(error, ModuleNotFoundError) else " It was raised on import."
    )
    raise SpecError(f"{what.rstrip('.')}. Nothing was started.{advice}", file=file, line=line) from error


def _pick(module: ModuleType, origin: Origin) -> Callable[..., Any]:
    if not hasattr(module, origin.name):
        candidates = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise SpecError(
            f"holds no {origin.name!r}{nearest(origin.name, candidates) or '.'} Nothing was started.",
            file=origin.shown,
            key="trainable",
        )
    found = getattr(module, origin.name)
    if isinstance(found, type) and not issubclass(found, Trainable):
        raise SpecError(
            f"{origin.name!r} is a class, but no tunesafe.Trainable. Derive it from tunesafe.Trainable, or name a "
            f"function that takes a trial. Nothing was started.",
            file=origin.shown,
            key="trainable",
        )
    if not callable(found):
        raise SpecError(
            f"{origin.name!r} is {a_or_an(type(found).__name__)}, not a function that takes a trial. "
            "Nothing was started.",
            file=origin.shown,
            key="trainable",
        )
    return found  # type: ignore[no-any-return]  # user code has no types we know
