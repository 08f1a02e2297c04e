"""The kinds of values a study file holds: scalars, durations, plain data.

Annotated types for the models: each checks one value, says what is wrong with it in the
words of :mod:`tunesafe.spec.faults`, and describes itself for the JSON Schema.
"""

from __future__ import annotations

import math
import numbers
import re
import unicodedata
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, WithJsonSchema, model_validator

from tunesafe.contracts import Parameter
from tunesafe.spec.faults import WRITTEN, Fault, KeyPath, found, raise_faults, refuse, unknown_key

__all__ = [
    "EXACT",
    "Count",
    "Duration",
    "DurationOrOff",
    "DurationOrZero",
    "Frozen",
    "Passes",
    "Scalar",
    "Section",
    "SizeOrOff",
    "folded",
    "name_pattern",
    "plain_data",
    "same_scalar",
    "why_no_name",
]

EXACT: KeyPath = ("budget", "passes")
"""The one number that is kept exactly as written: ``0.29`` of 100 examples is 29."""

_MAX_COUNT = 2**31 - 1
"""Largest count: numbers and steps are INTEGER columns."""

Count = Annotated[int, Field(ge=1, le=_MAX_COUNT)]
"""How many of something: a whole number, at least 1."""


class Section(BaseModel):
    """A mapping of the study file: immutable, exact types, no unknown keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, data: Any) -> Any:
        # Before the fields: a misspelt key would otherwise be reported twice, as unknown and as missing.
        if isinstance(data, Mapping):
            unknown = [unknown_key((key,), cls.model_fields) for key in data if key not in cls.model_fields]
            if unknown:
                raise_faults(unknown)
        return data


def _scalar(value: Any) -> Parameter:
    if isinstance(value, (Mapping, list, tuple)):
        refuse(f"must be a single value, found {WRITTEN}")
    assert value is None or isinstance(value, (bool, int, float, str)), "plain_data lets nothing else through"
    return value


Scalar = Annotated[
    Parameter, PlainValidator(_scalar), WithJsonSchema({"type": ["null", "boolean", "integer", "number", "string"]})
]
"""Text, a number, true, false or null; its type is kept."""


def same_scalar(one: Parameter, other: Parameter) -> bool:
    """Equal in value and in type: 1, 1.0, true and '1' are four values.

    Example:
        >>> same_scalar(1, 1), same_scalar(1, True), same_scalar(1, 1.0)
        (True, False, False)
    """
    return type(one) is type(other) and one == other


_MAX_NAME_BYTES = 200
"""A file's name has 255, and ours get endings."""


def why_no_name(text: str, inside: str) -> str | None:
    """What keeps a text from being a name; None if it is one.

    Args:
        text: Letters and digits of any script and ``_`` make a name.
        inside: What it may hold besides, not as first or last character; ``-`` is the last of them.

    Example:
        >>> why_no_name("größe", "-"), why_no_name("größe.x", "-")
        (None, "use letters, digits and '_', and between them '-'")
    """
    words = [char == "_" or unicodedata.category(char)[0] in "LMN" for char in text]
    if len(text.encode()) > _MAX_NAME_BYTES:
        return f"it has more than {_MAX_NAME_BYTES} bytes"
    if not unicodedata.is_normalized("NFC", text):
        return "its accents are characters of their own, and code that writes it otherwise would not find it; retype it"
    usable = all(word or char in inside for word, char in zip(words, text, strict=True))
    if not text or not usable or not words[0] or not words[-1] or ".." in text:
        shown = {" ": "spaces", ".": "single dots"}
        *others, last = [shown.get(char, f"'{char}'") for char in inside]
        return f"use letters, digits and '_', and between them {', '.join(others)}{' and ' * bool(others)}{last}"
    return None


def folded(name: str) -> str:
    """What is left of a name where case, accents and kinds of kana do not count, nor anything beyond 16 bits.

    Two names that any collation of MySQL's and MariaDB's takes for the same are the same then.

    Example:
        >>> folded("Größe"), folded("GROSSE"), folded("ガ") == folded("か")
        ('grosse', 'grosse', True)
    """
    plain = "".join(char for char in unicodedata.normalize("NFKD", name) if unicodedata.category(char)[0] != "M")
    kana = "".join(chr(ord(char) - 0x60) if "ァ" <= char <= "ヶ" else char for char in plain)
    return "".join(char if ord(char) < 0x10000 else "\ufffd" for char in kana.casefold())


def name_pattern(inside: str) -> str:
    """What a JSON Schema can say of names: of ASCII what :func:`why_no_name` says, of the rest nothing."""
    word = r"[0-9A-Za-z_]|[^\x00-\x7f]"
    return f"^({word})(({word}|[{inside}])*({word}))?$"


_UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_DURATION = re.compile(r"(?=.)" + "".join(rf"(?:(\d+(?:\.\d+)?){unit})?" for unit in _UNITS))


def _duration(value: Any) -> Any:
    seconds: float
    if isinstance(value, str) and (match := _DURATION.fullmatch(value.replace(" ", "").lower())):
        amounts = (float(amount or 0) for amount in match.groups())
        seconds = sum(amount * unit for amount, unit in zip(amounts, _UNITS.values(), strict=True))
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = float(value)
    else:
        refuse(f"must be a duration such as 90, 90s, 10m or 1h30m, found {WRITTEN}")
    return seconds


def _off(value: Any) -> Any:
    return None if value == "off" else value


_DURATION_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "number", "minimum": 0},
        {"type": "string", "pattern": r"^(?=.)(\d+(\.\d+)?d)?(\d+(\.\d+)?h)?(\d+(\.\d+)?m)?(\d+(\.\d+)?s)?$"},
    ]
}
_OFF_SCHEMA: dict[str, Any] = {"anyOf": [*_DURATION_SCHEMA["anyOf"], {"const": "off"}, {"type": "null"}]}

Duration = Annotated[float, Field(gt=0), BeforeValidator(_duration), WithJsonSchema(_DURATION_SCHEMA)]
"""A length of time above 0 [s]: ``60``, ``60s``, ``10m``, ``1h30m``, ``2d``."""
DurationOrZero = Annotated[float, Field(ge=0), BeforeValidator(_duration), WithJsonSchema(_DURATION_SCHEMA)]
"""A length of time [s], possibly none."""
DurationOrOff = Annotated[Duration | None, BeforeValidator(_off), WithJsonSchema(_OFF_SCHEMA)]
"""A length of time above 0 [s], or ``off``."""


_MULTIPLES = {
    f"{prefix}{binary}": (1024 if binary else 1000) ** power
    for power, prefix in enumerate(("", "k", "m", "g", "t"))
    for binary in ("", "i")
    if prefix or not binary
}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)([kmgt]i?)?b")
_MAX_BYTES = 2**63 - 1


def _size(value: Any) -> Any:
    num_bytes: Fraction
    if isinstance(value, str):
        text = value.replace(" ", "").lower()
        if (match := _SIZE.fullmatch(text)) is None:
            near = _SIZE.fullmatch(f"{text}b") is not None
            refuse(f"must be a size such as {f'{value}B' if near else '20GB, 512MiB, 1000000 or off'}, found {WRITTEN}")
        num_bytes = Fraction(match[1]) * _MULTIPLES[match[2] or ""]
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        num_bytes = Fraction(value)
    else:
        refuse(f"must be a size such as 20GB, 512MiB, 1000000 or off, found {WRITTEN}")
    if num_bytes.denominator != 1:
        refuse(f"must be a whole number of bytes, found {WRITTEN}")
    if not 1 <= num_bytes <= _MAX_BYTES:
        refuse(f"must be at least 1 byte and less than 8 EiB, or off, found {WRITTEN}")
    return int(num_bytes)


_SIZE_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "integer", "minimum": 1},
        {"type": "string", "pattern": r"^\d+(\.\d+)? ?([KkMmGgTt]i?)?B$"},
        {"const": "off"},
        {"type": "null"},
    ]
}

SizeOrOff = Annotated[
    Annotated[int, BeforeValidator(_size)] | None, BeforeValidator(_off), WithJsonSchema(_SIZE_SCHEMA)
]
"""An amount of bytes, or ``off``: ``20GB`` is 20 * 1000**3 bytes, ``20GiB`` 20 * 1024**3, a plain number bytes."""


def _passes(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)):
        refuse(f"must be a number, found {WRITTEN}")
    exact = value if isinstance(value, Decimal) else Decimal(repr(value))
    if not Decimal("1e-9") <= exact <= Decimal("1e9"):
        refuse(f"must be above 0 and at most 1e9, found {WRITTEN}")
    # 14.30 is 14.3; not normalize(), which rounds to the context's precision.
    text = format(exact, "f")
    return Decimal(text.rstrip("0").rstrip(".") if "." in text else text)


Passes = Annotated[
    Decimal, BeforeValidator(_passes), WithJsonSchema({"type": "number", "exclusiveMinimum": 0, "maximum": 1e9})
]
"""Times over the training set, exactly as written."""


def plain_data(value: Any, at: KeyPath, faults: list[Fault]) -> Any:
    """A copy of ``value`` in plain types; what is not plain is added to ``faults``.

    Numbers of other libraries become Python's, tuples lists, mappings dicts. Numbers must be
    finite, keys text: the file's reader gives nothing else, the Python door might.
    """
    match value:
        case None | bool():
            return value
        case str():
            if any(char == "\0" or "\ud800" <= char <= "\udfff" for char in value):
                faults.append(Fault("holds a NUL or half a character, which no database stores", at))
            return str.__str__(value)  # of a member of an Enum that is text, its text
        case Mapping():
            faults.extend(
                Fault(f"must have text as keys, found {found(key)}", at) for key in value if type(key) is not str
            )
            return {str(key): plain_data(item, (*at, str(key)), faults) for key, item in value.items()}
        case list() | tuple():
            return [plain_data(item, (*at, index), faults) for index, item in enumerate(value)]
        case numbers.Integral():
            whole = int(value)
            if not -(2**63) <= whole < 2**63:
                faults.append(Fault(f"must fit into 64 bits, found {WRITTEN}", at))
            return whole
        case Decimal() if value.is_finite():
            return value if at == EXACT else float(value)
        case numbers.Real() if not isinstance(value, Fraction):
            if not math.isfinite(value):
                faults.append(Fault(f"must be a finite number, found {WRITTEN}", at))
            return float(value)
        case _ if type(value).__module__ == "numpy" and hasattr(value, "item"):
            return plain_data(value.item(), at, faults)
        case _:
            faults.append(Fault(f"must be plain data, found {type(value).__name__}", at))
            return None


Frozen = Field(strict=False)
"""For tuples: a list is accepted."""
