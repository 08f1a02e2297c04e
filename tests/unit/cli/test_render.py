"""Values as text."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from tunesafe.cli import render

cells = st.text(st.characters(codec="ascii", exclude_categories=["C"]), max_size=12)


@given(st.floats(-1e300, 1e300))
def test_a_number_is_shown_to_four_digits(value: float) -> None:
    """What is read back from the screen is right to half a unit of the fourth digit."""
    assert math.isclose(float(render.number(value)), value, rel_tol=6e-4, abs_tol=1e-300)


@given(st.floats())
def test_numbers_are_short(value: float) -> None:
    """A column of numbers stays narrow, whatever is in it."""
    assert len(render.number(value)) <= 11


@given(st.lists(st.tuples(cells, cells, cells), max_size=5))
def test_columns_of_a_table_are_aligned(rows: list[tuple[str, str, str]]) -> None:
    """Every cell stands in its row, and no line is wider than all columns together."""
    header = ("one", "two", "three")
    lines = render.table(header, rows).split("\n")
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(3)]
    assert len(lines) == len(rows) + 1
    for line, row in zip(lines[1:], rows, strict=True):
        assert len(line) <= sum(widths) + 4
        assert all(cell.strip() in line for cell in row)


@given(st.floats(0, 1e9))
def test_a_duration_has_at_most_two_units(seconds: float) -> None:
    """And never says nothing."""
    words = render.duration(seconds).split()
    assert len(words) in (2, 4)
    assert set(words[1::2]) <= {"d", "h", "min", "s"}


@given(st.text(), st.integers(10, 40))
def test_a_shortened_text_is_one_line_that_fits(text: str, width: int) -> None:
    """Details of an event never break a table."""
    short = render.shortened(text, width)
    assert len(short) <= width
    assert "\n" not in short
