"""A disk that is full: the command says so and leaves a study that continues."""

from __future__ import annotations

import sqlite3

import pytest

from tests.crash.harness import Check, Ended, Laboratory, Study
from tests.crash.variations import BASE

pytestmark = [pytest.mark.crash, pytest.mark.timeout(600)]

STORAGE_FAILED = 3
INSIDE_TRANSACTIONS = (
    ("claim.in_transaction", 3),
    ("report.in_transaction", 4),
    ("blob.written", 40),
    ("checkpoint.in_transaction", 5),
    ("tell.in_transaction", 2),
)


def check_full(study: Study, ended: Ended) -> None:
    """One message, no traceback, a sound database."""
    assert ended.code == STORAGE_FAILED, f"exit code {ended.code}:\n{ended.output}"
    assert "Traceback" not in ended.output
    assert "space" in ended.output or "full" in ended.output
    database = sqlite3.connect(study.folder / "crash.db")
    assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()


@pytest.mark.parametrize(
    ("failpoint", "passing"),
    [
        pytest.param(*place, marks=[] if place[0].startswith("report") else pytest.mark.slow)
        for place in INSIDE_TRANSACTIONS
    ],
)
def test_a_full_disk_is_exit_3_and_the_same_command_continues(
    failpoint: str, passing: int, lab: Laboratory, survived: Check
) -> None:
    """ENOSPC inside each kind of transaction: nothing of it stays, and the study is the same in the end."""
    lab.reference(BASE)
    study = lab.study(BASE)
    check_full(study, study.run(failpoint=failpoint, passing=passing, action="raise"))
    survived(lab.conclude(study, [f"ENOSPC in {failpoint}"]))


def test_a_study_on_a_disk_that_grows_page_by_page_ends_identical(lab: Laboratory, survived: Check) -> None:
    """SQLite's own SQLITE_FULL, wherever the pages run out; each time the disk grows a little, and fills again."""
    lab.reference(BASE)
    study, pages, deaths = lab.study(BASE), 12, []
    while True:
        ended = study.run(max_pages=pages)
        if ended.code == 0:
            break
        check_full(study, ended)
        deaths.append("SQLITE_FULL")
        pages += 16
    assert len(deaths) >= 4
    survived(lab.compare(study, deaths))
