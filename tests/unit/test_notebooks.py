"""What counts as the code of a function that stands in no file."""

from __future__ import annotations

from typing import Any

from tunesafe.api.notebooks import notebook_source

CELL = "def value():\n    return {value}\n\n\ndef train(trial):\n    trial.report(loss=value())\n"


def cell(text: str) -> Any:
    """What a cell defines, as an interpreter that keeps no source has it."""
    names: dict[str, Any] = {"__name__": "notebook"}
    exec(text, names)
    return names["train"]


def test_code_without_source_is_told_apart() -> None:
    """The same cell run again is the same code; another constant is not."""
    once, again, other = (cell(CELL.format(value=value)) for value in (1.0, 1.0, 0.5))
    assert notebook_source(once) == notebook_source(again)
    assert notebook_source(once) != notebook_source(other)


def test_what_a_function_uses_of_its_own_module_belongs_to_it() -> None:
    """A helper in another cell may change while the function does not."""
    assert "def cell" in notebook_source(test_code_without_source_is_told_apart)
    assert "def notebook_source" not in notebook_source(test_code_without_source_is_told_apart)


def test_no_function_has_no_text() -> None:
    """A study that is only read needs none."""
    assert notebook_source(None) == ""
