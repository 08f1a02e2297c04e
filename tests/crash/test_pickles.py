"""A database in which everything is a malicious pickle, with packs that are pickles, too: nothing of it is run."""

from __future__ import annotations

import io
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, redirect_stderr, redirect_stdout, suppress
from pathlib import Path

import pytest

from tests.crash.harness import Laboratory, Study
from tests.crash.variations import BASE, SAMPLERS, Variation
from tunesafe.cli import main as tunesafe

pytestmark = [pytest.mark.crash, pytest.mark.timeout(900)]

PWNED = "pwned"
PICKLE = f"cposix\nsystem\n(S'touch {PWNED}'\ntR."
BYTES = PICKLE.encode()
FORMS = (PICKLE, json.dumps(PICKLE), json.dumps(BYTES.hex()), BYTES, BYTES.hex())
"""As text, as JSON, as Optuna's CMA-ES keeps its optimizer, as bytes."""
CMAES = next(variation for variation in SAMPLERS if variation.name == "sampler cmaes")
COMMANDS = (
    ("status", "--json"),
    ("best",),
    ("logs", "0"),
    ("show", "0"),
    ("checkpoints", "list"),
    ("checkpoints", "verify"),
    ("checkpoints", "show", "0"),
    ("export", "--trial", "0", "-o", "exported"),
)


def columns(database: sqlite3.Connection) -> Iterator[tuple[str, str]]:
    """Every column that may hold text or bytes, Optuna's too."""
    tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    for table in tables:
        for _, column, kind, *_ in database.execute(f"PRAGMA table_info({table})"):
            if not any(word in kind.upper() for word in ("INT", "FLOAT", "DOUBLE", "REAL", "DATE")):
                yield table, column


def poison(folder: Path, form: object, only: str = "") -> None:
    """Put a pickle into every such column of some tables, where the database lets it, and into every pack."""
    with closing(sqlite3.connect(folder / "crash.db")) as database:
        for table, column in [found for found in columns(database) if found[0].startswith(only)]:
            with suppress(sqlite3.IntegrityError):
                database.execute(f"UPDATE {table} SET {column} = ?", (form,))
        database.commit()
        assert database.total_changes
    for pack in folder.glob("*.packs/*.pack"):
        pack.write_bytes(BYTES)


def run_all(study: Study, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every reading command and the one that trains; what they said."""
    said = io.StringIO()
    monkeypatch.chdir(study.folder)
    for command in COMMANDS:
        words = [command[0], *command[1:]]
        index = 2 if command[0] == "checkpoints" else 1
        words.insert(index, f"sqlite:///{study.folder / 'crash.db'}#crash")
        with redirect_stdout(said), redirect_stderr(said), suppress(SystemExit):
            tunesafe(words)
    return said.getvalue() + study.run().output


@pytest.mark.parametrize(
    ("variation", "forms"),
    [
        pytest.param(BASE, FORMS[:1], id="one form"),
        pytest.param(BASE, FORMS[1:], id="every form", marks=pytest.mark.slow),
        pytest.param(CMAES, FORMS, id="cmaes", marks=pytest.mark.slow),
    ],
)
def test_a_database_full_of_pickles_runs_nothing(
    variation: Variation, forms: tuple[object, ...], lab: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it at once, and then the bytes of states, our tables and Optuna's by themselves."""
    lab.reference(variation)
    killed = lab.study(variation)
    killed.run_and_die(lab.reference(variation).passing("report.applied", "middle"))
    for form in forms:
        for only in ("", "tunesafe_blob", "tunesafe_", "trial", "stud"):
            study = killed.copy()
            poison(study.folder, form, only)
            said = run_all(study, monkeypatch)
            assert not (study.folder / PWNED).exists()
            assert not Path(PWNED).exists()
            assert "Traceback" not in said, f"{only}, {form!r}: {said[-3000:]}"
