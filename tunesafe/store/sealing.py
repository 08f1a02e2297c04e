"""Rows that say when they are no longer what was written.

A database keeps every page it is given, also one a failing disk has changed. What decides a
result (parameters, reports, outcomes, the study itself) therefore ends with a *seal*: the hash of
its text and of the row it belongs to, as a last key of the JSON. Whatever else a damaged row makes
of its reading becomes one error here, which says where it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tunesafe.errors import DamagedError
from tunesafe.store import jsontext
from tunesafe.store.hashing import content_hash

__all__ = ["is_sealed", "moment", "real", "row_intact", "seal", "sealed", "unseal", "whole"]

_KEY = '"$seal": "'
_DIGITS = 16
_YEAR_10000 = 253_402_300_800


def seal(values: Mapping[str, Any], *place: object) -> str:
    """Values as JSON text that is bound to the row it is written to.

    Args:
        values: What ``jsontext.dump`` can write.
        place: What the row is found by, and what else must not change without being noticed.

    Example:
        >>> text = seal({"lr": 0.1}, "params", 3)
        >>> unseal(text, "params", 3)
        {'lr': 0.1}
    """
    return sealed(jsontext.dump(dict(values)), *place)


def sealed(text: str, *place: object) -> str:
    """A JSON object's text with its seal."""
    comma = ", " if text != "{}" else ""
    return f'{text[:-1]}{comma}{_KEY}{_digest(text, place)}"}}'


def unseal(text: object, *place: object) -> dict[str, Any]:
    """Read back what ``seal`` wrote.

    Raises:
        ValueError: If it is not what was written, or not in the row it was written to.
    """
    if not isinstance(text, str) or not is_sealed(text):
        raise ValueError("it has lost its seal")
    body, _, _ = text.rpartition(_KEY)
    body = f"{body.removesuffix(', ')}}}"
    if text != sealed(body, *place):
        raise ValueError("it no longer matches its seal")
    values: dict[str, Any] = jsontext.load(body)
    return values


def is_sealed(text: str) -> bool:
    """Whether a text ends as a sealed one does."""
    return text[: -_DIGITS - 2].endswith(_KEY)


@contextmanager
def row_intact(what: str) -> Iterator[None]:
    """Whatever a damaged row makes of its reading becomes an error that names it.

    Args:
        what: The row, as a user would call it.

    Raises:
        DamagedError: In place of what was raised inside.
    """
    try:
        yield
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        raise DamagedError(
            f"{what} cannot be read, its row in the database is damaged: {error}. Nothing was changed, and what other "
            "rows hold is not affected. Restore the database from a backup, or begin under a new name."
        ) from error


def whole(value: object) -> int:
    """A column's whole number; SQLite keeps whatever is put into one."""
    if type(value) is not int:
        raise TypeError(f"{str(value)[:40]!r} is not a whole number")
    return value


def real(value: object) -> float:
    """A column's number."""
    if isinstance(value, float) or type(value) is int:
        return value
    raise TypeError(f"{str(value)[:40]!r} is not a number")


def moment(value: object) -> float:
    """A column's time [seconds since the epoch]."""
    if not 0 <= real(value) < _YEAR_10000:
        raise ValueError(f"{value} is not a time")
    return real(value)


def _digest(text: str, place: tuple[object, ...]) -> str:
    return content_hash(jsontext.dump([text, *map(str, place)]).encode()).partition(":")[2][:_DIGITS]
