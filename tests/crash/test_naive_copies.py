"""A study's files copied by hand while it runs: opening them works or says what is wrong, and never ends elsewhere.

SQLite asks that its file, its write-ahead log and our packs are copied together, and while nobody writes. Who
knows neither copies the file alone, or the log a moment later. Such copies are put together here from what the
files of one study were at many instants of its life.
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.crash.harness import Kill, Laboratory, Study
from tests.crash.outcome import differences
from tests.crash.variations import BASE

pytestmark = [pytest.mark.crash, pytest.mark.timeout(900)]

DATABASE, LOG, PACKS = "crash.db", "crash.db-wal", "crash.db.packs"
SAID = (2, 3, 4)
"""Exit codes of a command that says what is wrong."""
WORDS = ("unharmed", "othing was changed", "othing was written", "not affected", "are as they were")
"""Which says what is not, too."""
INSTANTS = (
    Kill("claim.in_transaction"),
    Kill("report.in_transaction", 3),
    Kill("checkpoint.in_transaction", 3),
    Kill("pack.durable", 2),
    Kill("tell.in_transaction"),
    Kill("report.recorded", 4),
    Kill("checkpoint.committed", 5),
    Kill("tell.in_transaction", 2),
)


@dataclass(frozen=True)
class Copy:
    """Which instant each part of a copy is of; ``None`` for a part that was forgotten."""

    database: int
    log: int | None
    packs: int | None


@pytest.fixture(scope="module")
def instants(lab: Laboratory) -> list[Path]:
    """The files of one study at many instants."""
    lab.reference(BASE)
    study, folders = lab.study(BASE), []
    for number, kill in enumerate(INSTANTS):
        study.run_and_die(kill)
        folders.append(lab.folder / f"instant {number}")
        shutil.copytree(study.folder, folders[-1])
    return folders


def put_together(copy: Copy, instants: list[Path], folder: Path) -> None:
    """Make a folder of parts of several instants."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in ("study.yaml", "train.py"):
        shutil.copy(instants[0] / name, folder / name)
    shutil.copy(instants[copy.database] / DATABASE, folder / DATABASE)
    if copy.log is not None and (instants[copy.log] / LOG).exists():
        shutil.copy(instants[copy.log] / LOG, folder / LOG)
    if copy.packs is not None and (instants[copy.packs] / PACKS).exists():
        shutil.copytree(instants[copy.packs] / PACKS, folder / PACKS)


def problems(lab: Laboratory, folder: Path) -> list[str]:
    """What is wrong with how a copy goes on."""
    study = Study(lab, BASE, folder)
    ended = study.run()
    if "Traceback" in ended.output:
        return [ended.output[-1500:]]
    if ended.code in SAID:
        return [] if any(words in ended.output for words in WORDS) else [ended.output[-1500:]]
    if ended.code != 0:
        return [f"exit code {ended.code}: {ended.output[-1500:]}"]
    if lab.perform(do="read", folder=str(folder))["code"]:
        # A state whose pack was not copied, or pages that fit no others, of a trial that was over by then: said to be.
        words = (folder / "output.log").read_text()
        said = ("DamagedError", "FoundDamaged", "CorruptStorageError", "is not there")
        return [] if any(each in words for each in said) else [words[-1500:]]
    outcome = json.loads((folder / "outcome.json").read_text())
    unlike = differences(lab.reference(BASE).outcome, outcome)
    return [line for line in unlike if "/wrong_events" not in line]


def check(lab: Laboratory, instants: list[Path], copies: Iterator[Copy]) -> None:
    """Let every copy go on; all that went wrong at once."""
    wrong = {}
    for copy in copies:
        folder = lab.folder / "copy"
        put_together(copy, instants, folder)
        found = problems(lab, folder)
        if found:
            wrong[str(copy)] = [line[-1200:] for line in found[:3]]
    assert not wrong, f"{len(wrong)} copies: {json.dumps(wrong, indent=1)}"


def all_copies() -> Iterator[Copy]:
    """The log older, newer or missing; and with it the packs of that instant, or none."""
    some: list[int | None] = [None, *range(len(INSTANTS))]
    for database, log in itertools.product(range(len(INSTANTS)), some):
        yield Copy(database, log, None)
        yield Copy(database, log, database if log is None else log)


def test_some_copies_made_in_mid_write_work_or_say_what_is_wrong(lab: Laboratory, instants: list[Path]) -> None:
    """The file alone, with its packs, and with a log of a later instant."""
    copies = [Copy(3, None, None), Copy(5, None, 5), Copy(5, 5, None), Copy(4, 6, 6), Copy(7, 7, 5), Copy(6, 4, 6)]
    check(lab, instants, iter(copies))


@pytest.mark.slow
def test_no_copy_made_in_mid_write_ends_elsewhere(lab: Laboratory, instants: list[Path]) -> None:
    """Every instant of the file with every other of log and packs."""
    check(lab, instants, all_copies())
