"""Values as JSON text that comes back exactly: what params, metrics, outcomes and events are kept as.

JSON has no NaN, no infinities and no keys but strings; they are spelled out here (``{"$float":
"nan"}``, ``{"$dict": [[key, value], …]}``), so any JSON reader can read a row and none has to
guess. The text is ASCII: lone surrogates and NUL survive every database. Only tuples come back
as something else, as lists.
"""

from __future__ import annotations

import json
import math
from typing import Any

from tunesafe.errors import StateError, a_or_an

__all__ = ["dump", "load"]


def dump(value: Any) -> str:
    """Write a value as JSON text.

    Args:
        value: None, bool, int, float, str, and lists, tuples and dicts of them.

    Raises:
        StateError: If it holds anything else; the message says where and what.

    Example:
        >>> dump({"lr": 0.1, "loss": float("nan")})
        '{"lr": 0.1, "loss": {"$float": "nan"}}'
    """
    return json.dumps(_spell(value, "value"), allow_nan=False)


def load(text: str) -> Any:
    """Read back what ``dump`` wrote.

    Example:
        >>> load(dump({"a": [1, 1.0, True, None, "1", -0.0]}))
        {'a': [1, 1.0, True, None, '1', -0.0]}
    """
    # Our spellings are rare, and asking every object for them costs twice the reading.
    return json.loads(text, object_hook=_unspell) if '"$' in text else json.loads(text)


def _spell(value: Any, path: str) -> Any:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"$float": str(float(value))}
    if isinstance(value, (list, tuple)):
        return [_spell(item, f"{path}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, dict):
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: _spell(item, f"{path}[{key!r}]") for key, item in value.items()}
        return {"$dict": [[_spell(k, f"{path} key"), _spell(v, f"{path}[{k!r}]")] for k, v in value.items()]}
    raise StateError(
        f"{path} is {a_or_an(type(value).__name__)} ({str(value)[:60]!r}), which cannot be kept in the study. Nothing "
        "was written. Give plain values: None, bool, int, float, str, and lists and dicts of them."
    )


def _unspell(spelled: dict[str, Any]) -> Any:
    match spelled:
        case {"$float": str(text), **rest} if not rest:
            return float(text)
        case {"$dict": [*pairs], **rest} if not rest:
            return dict(pairs)
    return spelled
