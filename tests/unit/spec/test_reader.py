from __future__ import annotations

import math
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.spec.texts import STUDY, load, refusal
from tunesafe.errors import SpecError
from tunesafe.spec.reader import MAX_BYTES, parse


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1.0e-4", 0.0001),
        (".5", 0.5),
        ("20_549", 20549),
        ("1_000.5", 1000.5),
        ("0x1f", 31),
        ("0o17", 15),
        ("0b11", 3),
        ("+3", 3),
        ("-3", -3),
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("=", "="),
        ("'5'", "5"),
        ("!!str 5", "5"),
        ("!!float 5", 5.0),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        (".inf", math.inf),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    """Numbers are numbers, and 'no' is text."""
    read = parse(f"a: {text}", file="x").data["a"]
    assert (type(read), read) == (type(value), value)


def test_numbers_can_be_read_exactly_as_written() -> None:
    """Only where it is asked for: elsewhere a number is a float."""
    data = parse("a: {b: 0.29}\nc: 0.29", file="x", exact={("a", "b")}).data
    assert data == {"a": {"b": Decimal("0.29")}, "c": 0.29}


def test_every_key_and_value_has_its_place() -> None:
    """Lines and columns count from 1."""
    places = parse("a:\n  - b: 1\n    c: [2, 3]\n", file="x").places
    assert places.keys == {("a",): ("x", 1, 1), ("a", 0, "b"): ("x", 2, 5), ("a", 0, "c"): ("x", 3, 5)}
    assert places.values[("a", 0, "c", 1)] == ("x", 3, 12)


def test_an_alias_stands_for_its_anchor() -> None:
    """Aliases are plain YAML, also when an anchor is given again."""
    assert parse("a: &x [1]\nb: *x\nc: &x 2\nd: *x", file="x").data == {"a": [1], "b": [1], "c": 2, "d": 2}


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (BOMB, "study.yaml:6:1: aliases make more than 100,000 values or endless ones; write the values out"),
        ("a: &a [*a]", "study.yaml:1:1: aliases make more than 100,000 values or endless ones; write the values out"),
        ("[" * 10_000, "study.yaml:1:33: values are nested more than 32 deep"),
        ("", "study.yaml:1:1: a study file is a mapping of keys to values; it is empty"),
        ("# nothing\n", "study.yaml:1:1: a study file is a mapping of keys to values; it is empty"),
        ("- a\n- b\n", "study.yaml:1:1: a study file is a mapping of keys to values; found a list"),
        ("digits", "study.yaml:1:1: a study file is a mapping of keys to values; found 'digits'"),
        ("a: 1\n---\nb: 2\n", "study.yaml:2:1: a second document begins here ('---'); a study file is one document"),
        ("%YAML 1.1\n---\na: no\n", "study.yaml:1:1: directive '%YAML' is not allowed; remove the line"),
        ("a: !!binary aGk=", "study.yaml:1:4: tag '!!binary' is not allowed; a study file holds plain values only"),
        ("a: !mine {b: 1}", "study.yaml:1:4: tag '!mine' is not allowed; a study file holds plain values only"),
        ("a: !!set {b}", "study.yaml:1:4: tag '!!set' is not allowed; a study file holds plain values only"),
        ("b: 1\n<<: {a: 1}", "study.yaml:2:1: merge key '<<' is not allowed; write the values out"),
        ("1: 2", "study.yaml:1:1: keys must be text, found 1; put quotes around it"),
        ("? [a]\n: 2", "study.yaml:1:3: keys must be text, found a list or mapping; put quotes around it"),
        ("a: 1e999", "study.yaml:1:4: '1e999' is no number that fits; put quotes around it if it is text"),
        ("a: !!int x", "study.yaml:1:4: 'x' is no whole number; put quotes around it if it is text"),
        ("a: !!null x", "study.yaml:1:4: 'x' is no null; put quotes around it if it is text"),
        ("a: *b", "study.yaml:1:4: not YAML: found undefined alias 'b'"),
        ("a: [1, 2", "study.yaml:1:9: not YAML: expected ',' or ']', but got '<stream end>'"),
        ("a: 1\nb: \x07", "study.yaml:2:4: character '\\x07' is not allowed in YAML"),
        ('a: "\\0"', "study.yaml:1:4: text holds a NUL or half a character, which no database stores"),
        (b"a: 1\nb: \xe9", "study.yaml:2:4: byte 0xe9 is not UTF-8 text; save the file as UTF-8"),
        (STUDY.encode("utf-16"), "study.yaml:1:1: byte 0xff is not UTF-8 text; save the file as UTF-8"),
    ],
)
def test_what_is_not_plain_yaml_is_refused_at_its_place(text: str | bytes, error: str, tmp_path: Path) -> None:
    """No tags, no bombs, no second document: plain values only."""
    assert refusal(text, tmp_path) == error


def test_a_large_file_is_refused_unread(tmp_path: Path) -> None:
    """Ten megabytes are no study file."""
    text = STUDY + "#" * 10_000_000
    assert refusal(text, tmp_path) == (
        f"study.yaml: has {len(text):,} bytes, more than the {MAX_BYTES:,} a study file may have; it was not read"
    )


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    """Some editors write one."""
    assert load(STUDY.encode("utf-8-sig"), tmp_path).name == "digits"


@settings(max_examples=60)
@given(st.data())
def test_no_damage_gives_anything_but_a_spec_or_a_spec_error(data: st.DataObject) -> None:
    """Whatever characters are cut out of, or put into, a study file: never a traceback."""
    begin = data.draw(st.integers(0, len(STUDY)))
    length = data.draw(st.integers(0, 40))
    insert = data.draw(st.text("[]{}:,-&*!|>'\"%@`#?~ \t\n\0é\ud800x1.e_", max_size=6))
    text = STUDY[:begin] + insert + STUDY[begin + length :]
    try:
        parse(text, file="study.yaml")
    except SpecError as error:
        place = error.line, error.column
    else:
        place = (1, 1)
    assert None not in place
