"""Plain YAML with the place of every key and value.

Study files are read as YAML 1.2's core: mappings, lists, text, numbers, true, false, null.
ruamel's pure, safe reader composes the nodes; the values are built here, so that nothing
else can come out: no tags, no merge keys, no other document, no alias bomb, no second value
for a key. What cannot be read is one :class:`~tunesafe.errors.SpecError` with its place.
"""

from __future__ import annotations

import difflib
import math
import os
import stat
from collections.abc import Collection
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from tunesafe.errors import SpecError
from tunesafe.spec.faults import KeyPath, Place, Places

__all__ = ["MAX_BYTES", "MAX_DEPTH", "MAX_VALUES", "Document", "parse", "read_text"]

MAX_BYTES = 1 << 20
"""Largest study file [bytes]."""
MAX_DEPTH = 32
"""Deepest nesting of mappings and lists."""
MAX_VALUES = 100_000
"""Most values in one file, aliases expanded."""

_CORE = "tag:yaml.org,2002:"
_AS_TEXT = {"str", "timestamp", "value"}  # dates and a lone '=' are text in YAML 1.2
_BOOLEANS = {"true": True, "false": False}
_KINDS = {"null": "null", "bool": "true or false", "int": "whole number", "float": "number that fits"}
_NULLS = {"": None, "~": None, "null": None}


class Document(NamedTuple):
    """What was read: plain data, the place of each key and value in it, and how its numbers are written."""

    data: Any
    places: Places


def read_text(path: Path) -> str:
    """Read a study file's text; its size is checked before it is read.

    Raises:
        SpecError: If there is no such file, or it is too large, unreadable or not UTF-8.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise SpecError("is not a file; a study file is YAML text", file=str(path))
        if status.st_size > MAX_BYTES:
            raise SpecError(
                f"has {status.st_size:,} bytes, more than the {MAX_BYTES:,} a study file may have; it was not read",
                file=str(path),
            )
        content = path.read_bytes()
    except FileNotFoundError:
        raise SpecError(f"no such file{_similar(path)}", file=str(path)) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise SpecError(f"cannot be read: {reason}", file=str(path)) from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8", "replace")
        place = Place(str(path), before.count("\n") + 1, len(before) - before.rfind("\n"))
        raise _refusal(f"byte 0x{content[error.start]:02x} is not UTF-8 text; save the file as UTF-8", place) from None


def _similar(path: Path) -> str:
    try:
        names = [entry.name for entry in path.parent.iterdir() if entry.suffix in {".yaml", ".yml"}]
    except OSError:
        return f"; there is no folder '{path.parent}' either"
    close = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean '{path.with_name(close[0])}'?" if close else ""


def parse(
    text: str, *, file: str, one_line: bool = False, at: KeyPath = (), exact: Collection[KeyPath] = ()
) -> Document:
    """Read one YAML document.

    Args:
        text: The document.
        file: What errors call it.
        one_line: The text is an argument, not a file: places have no line and column.
        at: Key path of the document's root.
        exact: Key paths whose numbers are read as ``Decimal``, exactly as written.

    Raises:
        SpecError: If it is not plain YAML.

    Example:
        >>> parse("a: [1e-3, no]", file="x.yaml").data
        {'a': [0.001, 'no']}
    """
    builder = _Builder(file, one_line, frozenset(exact))
    node = builder.compose(text)
    data = None if node is None else builder.build(node, at, 0)
    return Document(data, builder.places)


def _refusal(message: str, place: Place) -> SpecError:
    return SpecError(message, file=place.file, line=place.line, column=place.column)


def _storable(text: str, place: Place) -> str:
    if any(character == "\0" or "\ud800" <= character <= "\udfff" for character in text):
        raise _refusal("text holds a NUL or half a character, which no database stores", place)
    return text


class _Builder:
    """Builds plain data from nodes, and notes their places."""

    def __init__(self, file: str, one_line: bool, exact: frozenset[KeyPath]) -> None:
        self.file, self.one_line, self.exact = file, one_line, exact
        self.places = Places.empty()
        self.num_values = 0

    def place(self, line: int, column: int) -> Place:
        """From ruamel's 0-based position."""
        return Place(self.file) if self.one_line else Place(self.file, line + 1, column + 1)

    def place_of(self, node: Node) -> Place:
        return self.place(node.start_mark.line, node.start_mark.column)

    def compose(self, text: str) -> Node | None:
        yaml = YAML(typ="safe", pure=True)
        yaml.max_depth = MAX_DEPTH
        yaml.composer.warn_double_anchors = False  # YAML allows an anchor to be given again
        try:
            node: Node | None = yaml.compose(text)
        except MarkedYAMLError as error:
            raise self._unreadable(error, text) from None
        except YAMLError as error:  # a character that YAML does not allow
            position = getattr(error, "position", 0)
            place = self.place(text.count("\n", 0, position), position - text.rfind("\n", 0, position) - 1)
            raise _refusal(f"character {text[position : position + 1]!r} is not allowed in YAML", place) from None
        head = text.splitlines()[: node.start_mark.line if node else None]
        for number, line in enumerate(head):
            if line.startswith("%"):
                raise _refusal(f"directive {line.split()[0]!r} is not allowed; remove the line", self.place(number, 0))
        return node

    def _unreadable(self, error: MarkedYAMLError, text: str) -> SpecError:
        mark = error.problem_mark or error.context_mark
        place = self.place(mark.line, mark.column) if mark else Place(self.file)
        problem = error.problem or error.context or "unreadable"
        if "'\\t'" in problem:
            return _refusal("tab found; YAML separates and indents with spaces only", place)
        if "another document" in problem:
            return _refusal("a second document begins here ('---'); a study file is one document", place)
        if "maximum depth" in problem:
            return _refusal(f"values are nested more than {MAX_DEPTH} deep", place)
        return _refusal(f"not YAML: {problem}", place)

    def build(self, node: Node, path: KeyPath, depth: int) -> Any:
        place = self.place_of(node)
        self.places.values[path] = place
        self.num_values += 1
        if self.num_values > MAX_VALUES or depth > MAX_DEPTH:
            # Only aliases get here: they repeat what they stand for, or contain themselves.
            text = f"aliases make more than {MAX_VALUES:,} values or endless ones; write the values out"
            raise _refusal(text, self.places.keys.get(path[:1], place))
        tag = str(node.tag)
        kind = tag.removeprefix(_CORE)
        if isinstance(node, MappingNode) and tag == _CORE + "map":
            return self._mapping(node, path, depth)
        if isinstance(node, SequenceNode) and tag == _CORE + "seq":
            return [self.build(child, (*path, index), depth + 1) for index, child in enumerate(node.value)]
        if isinstance(node, ScalarNode) and kind in {*_AS_TEXT, "null", "bool", "int", "float"}:
            if kind in {"int", "float"}:
                self.places.numbers[path] = node.value
            return self._scalar(kind, node.value, place, exact=path in self.exact)
        shown = "!!" + kind if tag.startswith(_CORE) else tag
        raise _refusal(f"tag '{shown}' is not allowed; a study file holds plain values only", place)

    def _mapping(self, node: MappingNode, path: KeyPath, depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            place = self.place_of(key_node)
            key = self._key(key_node, place)
            at = (*path, key)
            if key in result:
                first = self.places.keys[at].line
                raise _refusal(f"key '{key}' is given twice" + (f", first in line {first}" if first else ""), place)
            self.places.keys[at] = place
            result[key] = self.build(value_node, at, depth + 1)
        return result

    def _key(self, node: Node, place: Place) -> str:
        kind = str(node.tag).removeprefix(_CORE)
        if kind == "merge":
            raise _refusal("merge key '<<' is not allowed; write the values out", place)
        if not isinstance(node, ScalarNode) or kind not in _AS_TEXT:
            shown = node.value if isinstance(node, ScalarNode) else "a list or mapping"
            raise _refusal(f"keys must be text, found {shown}; put quotes around it", place)
        return _storable(node.value, place)

    def _scalar(self, kind: str, text: str, place: Place, *, exact: bool) -> bool | int | float | str | Decimal | None:
        if kind in _AS_TEXT:
            return _storable(text, place)
        try:
            if kind == "null":
                return _NULLS[text.lower()]
            return _BOOLEANS[text.lower()] if kind == "bool" else _number(kind, text, exact=exact)
        except (ValueError, KeyError, ArithmeticError):
            hint = "put quotes around it if it is text"
            raise _refusal(f"{text[:60]!r} is no {_KINDS[kind]}; {hint}", place) from None


def _number(kind: str, text: str, *, exact: bool) -> int | float | Decimal:
    digits = text.replace("_", "")
    if kind == "int":
        based = digits.lstrip("+-")[:2].lower() in {"0x", "0o", "0b"}
        return int(digits, 0 if based else 10)
    special = {".inf": math.inf, "+.inf": math.inf, "-.inf": -math.inf, ".nan": math.nan}.get(digits.lower())
    if special is not None:
        return special
    value = float(digits)
    if exact:
        return Decimal(digits)
    if math.isinf(value):
        raise OverflowError
    return value
