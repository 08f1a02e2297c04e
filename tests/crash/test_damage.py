"""A database some of whose values are not what was written: never a wrong result, never a crash without a message.

A study is killed in mid-training. Then one column after the other is damaged, in every row, in
several ways: another number, half a text, nothing, bytes where there was text, text where there was
a number, a pickle that runs a command if anything ever reads it as one. The same command is run
again: either the study ends as if nothing had happened (what was damaged is made again, or decides
nothing), or the command ends with a message that says what is damaged. Reading commands never end
in a traceback.
"""

from __future__ import annotations

import io
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, redirect_stderr, redirect_stdout, suppress
from pathlib import Path

import pytest

from tests.crash.harness import Laboratory, Study
from tests.crash.outcome import differences
from tests.crash.variations import BASE
from tunesafe.cli import main as tunesafe
from tunesafe.store.tables import metadata

pytestmark = [pytest.mark.crash, pytest.mark.timeout(900)]

PWNED = "pwned"
PICKLE = f"cposix\nsystem\n(S'touch {PWNED}'\ntR."
"""A pickle, as text and as bytes, that makes a file."""
_AS_TEXT = "'" + PICKLE.replace("'", "''") + "'"
_AS_BYTES = f"x'{PICKLE.encode().hex()}'"
NUMBERS = ("{column} + 1", "-1", "1099511627776", "'x'", "NULL")
REALS = ("1e300", "'x'", "NULL")
BYTES = ("x'00'", "CAST(zeroblob(10) AS BLOB)", "'text'", _AS_BYTES)
NO_TEXT = "CAST(x'61ff' || {column} AS TEXT)"
TEXTS = (
    "'x'",
    "''",
    NO_TEXT,
    "substr({column}, 1, length({column}) / 2)",
    "replace({column}, '0', '1')",
    _AS_TEXT,
    _AS_BYTES,
)
SAID = (2, 3, 4)
"""Exit codes of a command that says what is wrong with what it was given, or with the database."""

# A row that is found under another key is gone: nobody can tell that from one that was never written.
GONE = {(table, column) for table in ("records", "checkpoints") for column in ("study", "number", "virtual_epoch")}
# Settled by whoever came first, and as good as any other number of threads; other bits, and an event would say so.
OTHER_BITS = {("studies", "threads_per_worker")}


def ways(kind: str) -> tuple[str, ...]:
    """How to damage a column of a kind."""
    if "INT" in kind:
        return NUMBERS
    if "BLOB" in kind:
        return BYTES
    return REALS if any(name in kind for name in ("DOUBLE", "FLOAT", "REAL")) else TEXTS


def columns() -> Iterator[tuple[str, str, str]]:
    """Our tables' columns and their kinds, without Optuna's."""
    with closing(sqlite3.connect(":memory:")) as empty:
        from sqlalchemy import create_engine

        metadata.create_all(create_engine("sqlite://", creator=lambda: empty))
        for table in sorted(metadata.tables):
            for _, name, kind, *_ in empty.execute(f"PRAGMA table_info({table})"):
                yield table.removeprefix("tunesafe_"), name, kind


CASES = [(table, column, way) for table, column, kind in columns() for way in ways(kind)]


def damaged(killed: Study, table: str, column: str, way: str) -> Study | None:
    """A copy in which a column is damaged; ``None`` if the database itself refuses that, or nothing is in it."""
    study = killed.copy()
    with suppress(sqlite3.IntegrityError):
        if study.rewrite(f"UPDATE tunesafe_{table} SET {column} = {way.format(column=column)}"):
            return study
    return None


def problems(study: Study, lab: Laboratory, table: str, column: str) -> list[str]:
    """What is wrong with how a damaged study went on."""
    ended = study.run()
    found = [line for line in ended.output.splitlines() if "Traceback" in line]
    if (study.folder / PWNED).exists():
        found.append("a pickle was read as one")
    if ended.code in SAID:
        return found
    if ended.code != 0:
        return [*found, f"exit code {ended.code}: {ended.output[-600:]}"]
    if lab.perform(do="read", folder=str(study.folder))["code"]:
        # The outcome reads every checkpoint of every trial: one that is damaged is found, and said to be.
        words = (study.folder / "output.log").read_text()
        return found if "DamagedError" in words or "FoundDamaged" in words else [*found, words[-600:]]
    outcome = json.loads((study.folder / "outcome.json").read_text())
    unlike = differences(lab.reference(BASE).outcome, outcome)
    if (table, column) in GONE:
        unlike = [
            difference for difference in unlike if "missing" not in difference and "no checkpoint" not in difference
        ]
    return found + ([] if (table, column) in OTHER_BITS else [line for line in unlike if "/wrong_events" not in line])


def said(folder: Path, *command: str) -> str:
    """What is wrong with what a reading command does with a damaged study."""
    out = io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(out):
            tunesafe([*command[:1], f"sqlite:///{folder / 'crash.db'}#crash", *command[1:]])
    except SystemExit as ending:
        fine = ending.code in (0, None, 1, *SAID) and "Traceback" not in out.getvalue()
        return "" if fine else f"{ending.code}: {out.getvalue()}"
    except Exception as error:  # noqa: BLE001 - whatever it is, the test wants to name it
        return f"{type(error).__name__}: {error}"
    return ""


READING = (("status",), ("status", "--json"), ("best",), ("logs", "0"), ("show", "0"), ("checkpoints", "list"))


def check(killed: Study, lab: Laboratory, cases: list[tuple[str, str, str]]) -> None:
    """Damage one column after the other; all that went wrong at once."""
    wrong = {}
    for table, column, way in cases:
        study = damaged(killed, table, column, way)
        if study is None:
            continue
        found = [f"{' '.join(c)}: {words}" for c in READING if (words := said(study.folder, *c))]
        found += problems(study, lab, table, column)
        if found:
            wrong[f"{table}.{column} = {way[:40]}"] = [line[:300] for line in found[:3]]
    assert not wrong, json.dumps(wrong, indent=1)


def test_a_study_some_of_whose_values_are_damaged_ends_right_or_says_so(killed: Study, lab: Laboratory) -> None:
    """A dozen of the cases below, of every kind; others every time the tables change."""
    check(killed, lab, CASES[:: len(CASES) // 12])


@pytest.mark.slow
@pytest.mark.parametrize("table", sorted({table for table, _, _ in CASES}))
def test_a_study_any_of_whose_values_are_damaged_ends_right_or_says_so(
    table: str, killed: Study, lab: Laboratory
) -> None:
    """Every column of every table of ours, in every way."""
    check(killed, lab, [case for case in CASES if case[0] == table])


OPTUNAS = (
    ("trials", "number", "'x'"),
    ("trials", "study_id", "study_id + 1"),
    ("trials", "state", "'x'"),
    ("trial_params", "distribution_json", "'x'"),
    ("trial_values", "value", "'x'"),
    ("trial_intermediate_values", "intermediate_value", "'x'"),
    ("trial_system_attributes", "value_json", "'x'"),
    ("study_user_attributes", "value_json", "'x'"),
    ("alembic_version", "version_num", "'x'"),
)
"""Columns of Optuna's tables that nobody can make sense of once they are damaged so."""


@pytest.mark.parametrize(
    ("table", "column", "way"),
    [pytest.param(*case, marks=[] if case[1] in ("number", "value") else pytest.mark.slow) for case in OPTUNAS],
    ids=lambda word: word,
)
def test_a_damaged_row_of_optunas_is_one_message(table: str, column: str, way: str, killed: Study) -> None:
    """What cannot be read is not guessed."""
    study = killed.copy()
    assert study.rewrite(f"UPDATE {table} SET {column} = {way}")
    ended = study.run()
    assert ended.code in SAID, ended.output
    assert "Traceback" not in ended.output
    assert "Optuna" in ended.output
    assert "Nothing was changed" in ended.output or "No trial goes on by it" in ended.output
