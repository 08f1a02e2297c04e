"""The code of a function that stands in no file: a notebook's cell, or an interpreter's line.

A change of it has to be noticed like a change of a file, so the functions and classes it
uses from its own module belong to it. Where no source was kept, the compiled code stands
for it.
"""

from __future__ import annotations

import inspect
import textwrap
from types import CodeType, FunctionType
from typing import Any

__all__ = ["notebook_source"]


def notebook_source(function: Any) -> str:
    """The text of a function or class, and of what it uses from the module it was defined in.

    Args:
        function: What is to be trained; ``None`` gives the empty text.
    """
    texts: dict[str, str] = {}
    queue = [] if function is None else [function]
    while queue:
        found = queue.pop()
        if found.__qualname__ not in texts:
            texts[found.__qualname__] = _text_of(found)
            queue += _used_by(found)
    return "\n\n".join(texts[name] for name in sorted(texts))


def _text_of(found: Any) -> str:
    try:
        return textwrap.dedent(inspect.getsource(found))
    except (OSError, TypeError):  # typed into an interpreter that keeps no source
        return "\n".join(repr(_plain(function.__code__)) for function in _functions_of(found))


def _used_by(found: Any) -> list[Any]:
    used = []
    for function in _functions_of(found):
        for name in _names(function.__code__):
            other = function.__globals__.get(name)
            if isinstance(other, FunctionType | type) and other.__module__ == found.__module__:
                used.append(other)
    return used


def _functions_of(found: Any) -> list[FunctionType]:
    if isinstance(found, FunctionType):
        return [found]
    return (
        [member for member in vars(found).values() if isinstance(member, FunctionType)]
        if inspect.isclass(found)
        else []
    )


def _names(code: CodeType) -> set[str]:
    inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return set(code.co_names).union(*(_names(constant) for constant in inner))


def _plain(code: CodeType) -> tuple[Any, ...]:
    constants = [_plain(value) if isinstance(value, CodeType) else repr(value) for value in code.co_consts]
    return code.co_code.hex(), code.co_names, constants
