"""Optuna's samplers, pruners and operators by the names a study file gives them.

A study file says ``{name: tpe, n_startup_trials: 20}``. Here the name becomes a class, the
options are held against the signature of its constructor, and whatever does not fit is an
error that names the nearest thing that would. Samplers and pruners share it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from importlib.util import find_spec
from types import ModuleType
from typing import Any, TypeVar

from tunesafe.errors import MissingExtraError, SpecError

__all__ = [
    "check_options",
    "classes_of",
    "construct",
    "find_class",
    "parameters_of",
    "require",
    "split_name",
    "suggestion",
]

_T = TypeVar("_T")

_PLAIN: dict[str, tuple[type, ...]] = {
    "bool": (bool,),
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "None": (type(None),),
}


def _fold(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())


def suggestion(name: object, known: Iterable[str]) -> str:
    """The end of an error about an unknown name: the nearest one, and all there are.

    Example:
        >>> suggestion("lrr", ["lr", "momentum"])
        "Did you mean 'lr'? There are: lr, momentum."
    """
    names = sorted(known)
    near = get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    return f"{hint}There are: {', '.join(names)}." if names else "There are none."


def classes_of(module: ModuleType, base: type[_T], suffix: str) -> dict[str, type[_T]]:
    """The concrete subclasses of ``base`` a module exports, by their name without ``suffix``, in lower case."""
    exported = (getattr(module, name) for name in module.__all__)
    return {
        _fold(cls.__name__.removesuffix(suffix)): cls
        for cls in exported
        if inspect.isclass(cls) and issubclass(cls, base) and not inspect.isabstract(cls)
    }


def find_class(where: str, name: str, classes: Mapping[str, type[_T]], suffix: str) -> type[_T]:
    """The class a study file means: its name, or that without suffix, ignoring case and underscores.

    Args:
        where: The key path the name stands at, for the error.
        name: What the study file says.
        classes: As ``classes_of`` gives them.
        suffix: What may be left out, e.g. ``Sampler``.

    Raises:
        SpecError: If there is none of that name.
    """
    folded = _fold(name).removesuffix(suffix.lower())
    if folded not in classes:
        raise SpecError(f"{name!r} is not one of Optuna's. {suggestion(folded or name, classes)}", key=where)
    return classes[folded]


def split_name(where: str, value: object) -> tuple[str, dict[str, Any]]:
    """Take a nested ``{name: …, option: …}`` apart; a bare name stands for itself.

    Raises:
        SpecError: If it is neither.
    """
    if isinstance(value, str):
        return value, {}
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise SpecError(f"{value!r} is neither a name nor a mapping with one, such as {{name: random}}.", key=where)
    options = {str(key): option for key, option in value.items()}
    return options.pop("name"), options


def parameters_of(cls: type) -> dict[str, inspect.Parameter]:
    """The options a class takes, by name."""
    parameters = inspect.signature(cls).parameters
    return {name: p for name, p in parameters.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}


def check_options(
    where: str, cls: type, options: Mapping[str, Any], *, refused: Mapping[str, str], structured: Iterable[str]
) -> None:
    """Hold options against a constructor: known names, plain types.

    Args:
        where: The key path the options stand at, for errors.
        cls: Whose constructor they are for.
        options: What the study file gives.
        refused: Options that exist and must not be given, with the reason.
        structured: Options whose values the caller converts itself: names only are checked.

    Raises:
        SpecError: For an unknown or refused option, or a value of a wrong type.
    """
    parameters, structured = parameters_of(cls), set(structured)
    for name, value in options.items():
        if name in refused and name in parameters:
            raise SpecError(f"{refused[name]}", key=f"{where}.{name}")
        if name not in parameters:
            hint = suggestion(name, set(parameters) - set(refused))
            raise SpecError(f"{cls.__name__} has no such option. {hint}", key=f"{where}.{name}")
        if name not in structured:
            _check_type(f"{where}.{name}", str(parameters[name].annotation), value)


def _check_type(where: str, annotation: str, value: object) -> None:
    words = annotation.removeprefix("<class '").removesuffix("'>").split(" | ")
    if any(word not in _PLAIN for word in words):
        raise SpecError(f"takes a Python object ({annotation}), which a study file cannot give.", key=where)
    accepted = {t for word in words for t in _PLAIN[word]}
    if type(value) not in accepted:
        raise SpecError(f"{value!r} is not {' or '.join(words)}.", key=where)


def construct(where: str, cls: Callable[..., _T], options: Mapping[str, Any]) -> _T:
    """Call a constructor and say in the study file's words what it does not accept.

    Raises:
        SpecError: If it raises ``TypeError`` or ``ValueError``, with its message.
    """
    try:
        return cls(**options)
    except (TypeError, ValueError) as error:
        raise SpecError(f"{error}", key=where) from error


def require(where: str, module: str, extra: str) -> None:
    """Make sure an optional library is there before anything is started.

    Raises:
        MissingExtraError: If it is not, naming the extra that brings it.
    """
    if find_spec(module) is None:
        raise MissingExtraError(f"{where} needs {module}, which is not installed: pip install 'tunesafe[{extra}]'.")
