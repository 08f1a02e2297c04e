"""Faults in a study file, and their wording.

A fault is one thing that is wrong at one key path. Validators raise them, pydantic finds
others; both become lines of one :class:`~tunesafe.errors.SpecError` that name the place,
the value found and the nearest right one. Pure: nothing here reads a file.
"""

from __future__ import annotations

import difflib
import math
import numbers
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple, NoReturn

from pydantic import ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from tunesafe.errors import SpecError

__all__ = [
    "WRITTEN",
    "Fault",
    "KeyPath",
    "Place",
    "Places",
    "dotted",
    "faults_of",
    "found",
    "locate",
    "nearest",
    "raise_faults",
    "refuse",
    "resolved",
    "spec_error",
    "unknown_key",
    "written",
]

KeyPath = tuple[str | int, ...]
"""A value's address in the study file: keys and list indices from the root."""


WRITTEN = "\0"
"""Stands in a fault's text for a value of the study file, shown as it is written there. No user's text holds it."""


class Place(NamedTuple):
    """Where a key path stands: a file (or a ``--set`` argument), and line and column in it, 1-based."""

    file: str
    line: int | None = None
    column: int | None = None


class Places(NamedTuple):
    """The places of every key and every value of a study file, and the notation of its numbers."""

    keys: dict[KeyPath, Place]
    values: dict[KeyPath, Place]
    numbers: dict[KeyPath, str]

    @classmethod
    def empty(cls) -> Places:
        """Those of what is in no file."""
        return cls({}, {}, {})


class Fault(NamedTuple):
    """One thing that is wrong.

    Args:
        text: The sentence after its subject, the key path: ``must be at least 1, found 0``.
        at: Key path of the subject.
        key_is: The key is wrong, not its value; what it is instead, e.g. "unknown parameter".
        echoes: Key paths of the values that ``WRITTEN`` stands for in the text; the subject's own unless given.
    """

    text: str
    at: KeyPath = ()
    key_is: str = ""
    echoes: tuple[KeyPath, ...] = ()

    @property
    def sentence(self) -> str:
        """The fault in words, without its place."""
        if self.key_is:
            return f"{self.key_is} '{_printable(dotted(self.at))}'{self.text}"
        return f"{_printable(dotted(self.at)) or 'the study'} {self.text}"

    def under(self, path: KeyPath) -> Fault:
        """The same fault, its paths relative to what holds the value it was found in."""
        return self._replace(at=path + self.at, echoes=tuple(path + echo for echo in self.echoes))

    def worded(self, data: object, places: Places) -> Fault:
        """The same fault with the values it echoes in its text, numbers in the notation of the file."""
        pieces = self.text.split(WRITTEN)
        echoes = self.echoes or (self.at,) * (len(pieces) - 1)
        shown = [written(path, data, places) for path in echoes]
        text = "".join(piece + value for piece, value in zip(pieces, [*shown, ""], strict=True))
        return self._replace(text=text, echoes=())


def _printable(text: str) -> str:
    """Characters that would break a line, or be invisible, as Python writes them."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def written(path: KeyPath, data: object, places: Places) -> str:
    """The value at a key path as the study file has it: as :func:`found`, but a number in its own notation."""
    real = _real_path(path, data)
    if real in places.numbers:
        return _shortened(places.numbers[real])
    value: Any = data
    for part in real:
        value = value[part]
    return found(value)


def dotted(path: Iterable[str | int]) -> str:
    """A key path as ``--set`` writes it.

    Example:
        >>> dotted(("initial_trials", 0, "lr"))
        'initial_trials.0.lr'
    """
    return ".".join(str(part) for part in path)


def found(value: object) -> str:
    """A value as the study file would write it, cut to a readable length.

    Example:
        >>> found("yes"), found(True), found(None), found([1]), found([]), found(0.1)
        ("'yes'", 'true', 'null', 'a list', 'an empty list', '0.1')
    """
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case str():
            return repr(_shortened(value))
        case int() if value.bit_length() > 200:
            return "a number of more than 60 digits"
        case numbers.Real() if not math.isfinite(value):
            return ".nan" if math.isnan(value) else (".inf" if float(value) > 0 else "-.inf")
        case Mapping():
            return "a mapping" if value else "an empty mapping"
        case list() | tuple():
            return "a list" if value else "an empty list"
        case _:
            return _shortened(str(value))


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def nearest(name: object, candidates: Collection[str], *, what: str = "") -> str:
    """The end of an error about a name: the nearest right one, else all of them if ``what`` names them.

    Example:
        >>> nearest("medain", ["median", "nop"], what="pruners")
        "; did you mean 'median'?"
        >>> nearest("x", ["median", "nop"], what="pruners")
        '; pruners: median, nop'
    """
    by_case = {candidate.lower(): candidate for candidate in candidates}
    close = difflib.get_close_matches(str(name).lower(), by_case, n=1)
    if close:
        return f"; did you mean '{by_case[close[0]]}'?"
    return f"; {what}: {', '.join(candidates)}" if what and candidates else ""


def unknown_key(at: KeyPath, known: Collection[str], what: str = "key") -> Fault:
    """The fault of a key that does not exist, with the nearest that does."""
    return Fault(nearest(at[-1], known, what=f"{what}s"), at, key_is=f"unknown {what}")


def refuse(text: str, *at: str | int, echoes: tuple[KeyPath, ...] = ()) -> NoReturn:
    """Raise one fault from inside a validator; its paths are relative to the validated value."""
    raise_faults([Fault(text, at, echoes=echoes)])


def raise_faults(faults: list[Fault]) -> NoReturn:
    """Raise several faults from inside a validator, their paths relative to the validated value."""
    raise PydanticCustomError("faults", "see the context", {"faults": faults})


def faults_of(error: ValidationError, data: object, places: Places | None = None) -> list[Fault]:
    """The faults in pydantic's error, in our words.

    Args:
        error: What validating ``data`` raised.
        data: The validated data; tells real keys from pydantic's union tags.
        places: With the notation of its numbers, if it was read from a file.
    """
    result: list[Fault] = []
    for detail in error.errors(include_url=False):
        if detail["type"] == "missing":
            *loc, key = detail["loc"]
            result.append(Fault(f"has no '{key}', which it needs", _real_path(loc, data)))
            continue
        path = _real_path(detail["loc"], data)
        if detail["type"] == "faults":
            inner: list[Fault] = detail["ctx"]["faults"]
            result.extend(fault.under(path) for fault in inner)
        else:
            result.append(Fault(f"{_expectation(detail)}, found {WRITTEN}{_hint(detail)}", path))
    return [fault.worded(data, places or Places.empty()) for fault in result]


def _real_path(loc: Iterable[str | int], data: Any) -> KeyPath:
    """A location without what is not there: the tags that pydantic adds for unions, the index of a lone value."""
    path: list[str | int] = []
    for part in loc:
        is_list = isinstance(data, (list, tuple)) and isinstance(part, int)
        if is_list or (isinstance(data, Mapping) and part in data):
            data = data[part]
            path.append(part)
    return tuple(path)


_EXPECTATIONS = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "string_too_short": "must not be empty",
    "too_short": "must not be empty",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
    "model_attributes_type": "must be a mapping",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
}


def _expectation(detail: ErrorDetails) -> str:
    limits = {name: 0 if limit == 0 else limit for name, limit in detail.get("ctx", {}).items()}
    template = _EXPECTATIONS.get(detail["type"])
    return template.format(**limits) if template else f"is wrong: {detail['msg']}"


def _hint(detail: ErrorDetails) -> str:
    value = detail["input"]
    if detail["type"] == "int_type" and isinstance(value, float) and value.is_integer():
        return f"; write {int(value)}"
    if detail["type"] == "literal_error" and isinstance(value, str):
        choices = re.findall(r"'([^']+)'", detail["ctx"]["expected"])
        return nearest(value, choices)
    return ""


def resolved(key_path: str, places: Places) -> KeyPath:
    """A key path from its text. Names may hold dots: the longest that is there counts.

    Example:
        >>> lr = ("parameters", "optimizer.lr")
        >>> resolved("parameters.optimizer.lr.low", Places({}, {lr[:1]: Place("x"), lr: Place("x")}, {}))
        ('parameters', 'optimizer.lr', 'low')
    """
    path: KeyPath = ()
    parts = key_path.split(".")
    while parts:
        heads = [(*path, ".".join(parts[:count])) for count in range(len(parts), 0, -1)]
        named = next((head for head in heads if head in places.values), None)
        path = named or (*path, int(parts[0]) if parts[0].isdecimal() else parts[0])
        del parts[: str(path[-1]).count(".") + 1]
    return path


def locate(path: KeyPath, places: Places, *, key: bool = False) -> tuple[Place | None, bool]:
    """The place of a key path, else of its nearest ancestor that has one.

    Returns:
        The place (None without a file), and whether it is that of the path itself.
    """
    first, second = (places.keys, places.values) if key else (places.values, places.keys)
    place = first.get(path) or second.get(path)
    if place is not None or not path:
        return place, place is not None
    # A mapping that lacks something is shown at its key; the whole file at its first line.
    return locate(path[:-1], places, key=True)[0], False


def spec_error(faults: Iterable[Fault], places: Places) -> SpecError:
    """One error for all faults, in the order of their places; the first gives the error its place."""
    lines: list[tuple[Place | None, str]] = []
    for fault in dict.fromkeys(faults):
        # What a mapping lacks is best shown at the mapping's own key.
        lines.append((locate(fault.at, places, key=bool(fault.key_is))[0], fault.sentence))
    lines.sort(key=lambda line: (line[0] is None, line[0] and (line[0].line or 0, line[0].column or 0)))
    (first, sentence), *others = lines
    message = "\n".join([sentence, *(str(_error(text, place)) for place, text in others)])
    return _error(message, first)


def _error(message: str, place: Place | None) -> SpecError:
    if place is None:
        return SpecError(message)
    return SpecError(message, file=place.file, line=place.line, column=place.column)
