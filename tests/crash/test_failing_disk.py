"""Whole studies on a disk that is full or broken at one call after the other: stopped with a message, and the same.

The long test crosses kind of study x layer (calls on files, statements of SQLite) x place, the number of the call
that fails. Each place has one error: they take turns, and so do a failure of one call and of all from there on. The
plainest kind of study has every place, the others every second one. That every single call of a save, a removal or a
copy may fail in either way, with either error, is shown for the store alone, in ``tests/unit``.
"""

from __future__ import annotations

import errno
import itertools
import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.crash.harness import Ended, Laboratory, Study
from tests.crash.outcome import differences
from tests.crash.variations import BASE, VARIATIONS, Variation

pytestmark = [pytest.mark.crash, pytest.mark.timeout(3600)]

STORAGE_FAILED = 3
ERRORS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO}
NAMED = {variation.name: variation for variation in VARIATIONS}
LIMITED = Variation("disk limit", {"checkpoint": {"keep": {"last": 2, "best": 2, "every": 1}}, "disk_limit": "6MB"})
KINDS = {"packs": BASE, "elsewhere": NAMED["blobs elsewhere"], "thinned": NAMED["weights only"], "limited": LIMITED}
FOLDERS = ("crash.db.packs", "blobs")
LAST_PLACE = 800
"""No run is longer; and a study that has failed so often has failed enough."""


def run(study: Study, at: int, error: int, **how: Any) -> tuple[Ended, str | None]:
    """One run on a disk that fails at a call; how it ended, and which call that was, if it came to it."""
    (study.folder / "disk.json").unlink(missing_ok=True)
    ended = study.run(disk={"at": at, "error": error, **how})
    failed: str | None = json.loads((study.folder / "disk.json").read_text())
    return ended, failed


def check_stopped(study: Study, ended: Ended, failed: str | None) -> None:
    """One message, no traceback, a sound database."""
    assert failed is not None, f"exit code {ended.code}, and no call failed:\n{ended.output[-3000:]}"
    assert ended.code == STORAGE_FAILED, f"{failed}: exit code {ended.code}:\n{ended.output[-3000:]}"
    assert "Traceback" not in ended.output, f"{failed}:\n{ended.output[-3000:]}"
    assert "unharmed" in ended.output, f"{failed}:\n{ended.output[-3000:]}"
    with closing(sqlite3.connect(study.folder / "crash.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def suffer(lab: Laboratory, kind: str, error: int, places: range, **how: Any) -> None:
    """One study whose runs fail at these calls, until one comes to its end; every second failure lasts."""
    variation = KINDS[kind]
    expected = lab.reference(variation).outcome
    study, deaths = lab.study(variation), []
    for index, at in enumerate(places):
        ended, failed = run(study, at, error, lasting=bool(index % 2), **how)
        if ended.code == 0:
            break
        check_stopped(study, ended, failed)
        deaths.append(f"{failed}")
    else:
        study.finish()
    assert deaths
    found = study.outcome()
    if kind == "limited":  # what is given up depends on when it is looked
        expected, found = dict(expected), dict(found)
        expected.pop("checkpoints"), found.pop("checkpoints")
    # A pack that cannot be read is a damaged one: it is said, and trained again.
    found = {
        **found,
        "wrong_events": [kind for kind in found["wrong_events"] if error != errno.EIO or kind != "damaged"],
    }
    unlike = differences(expected, found)
    assert not unlike, f"after {deaths}: {unlike[:5]}"


@pytest.mark.parametrize("error", ERRORS)
def test_a_study_on_a_disk_that_fails_ever_later_ends_identical(error: str, lab: Laboratory) -> None:
    """Each run comes a little farther; packs are made, synced, renamed and given up by then."""
    suffer(lab, "packs", ERRORS[error], range(1, 200, 9), folders=FOLDERS)


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["files", "statements"])
@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_study_of_any_kind_on_a_disk_that_fails_ends_identical(
    kind: str, error: str, layer: str, lab: Laboratory
) -> None:
    """One failure after the other in one study, at every distance from a run's beginning; of statements, each 7th."""
    stride = {"files": 1, "statements": 7}[layer] * (1 if kind == "packs" else 2)
    first = 1 + stride * list(ERRORS).index(error)
    how: dict[str, Any] = {"folders": FOLDERS} if layer == "files" else {}
    suffer(lab, kind, ERRORS[error], range(first, LAST_PLACE, stride * len(ERRORS)), **how)


def backed_up(lab: Laboratory, name: str) -> tuple[Study, Path]:
    """A study with a second place."""
    place = lab.folder / name
    return lab.study(replace(BASE, changes={"backup": {"url": str(place), "every": 0.05}})), place


CALLS_OF_COPIES = (1, 1, 2, 3, 4, 5, 7, 9, 11, 15, 20, 30, 50)
FAILURES = itertools.cycle(itertools.product(("lasting", "once"), ERRORS))
COPIES = [(at, *failure) for at, failure in zip(CALLS_OF_COPIES, FAILURES, strict=False)]


@pytest.mark.parametrize(
    ("at", "how_long", "error"),
    [pytest.param(*copy, marks=[] if copy[0] == 1 else pytest.mark.slow) for copy in COPIES],
)
def test_a_copy_that_fails_never_harms_the_study(at: int, how_long: str, error: str, lab: Laboratory) -> None:
    """Said, tried again, and given up at the end; the result is the same, and so is the exit code."""
    lasting = how_long == "lasting"
    study, place = backed_up(lab, f"place {at} {how_long} {error}")
    folders = ["crash.db.backup", str(place)]
    ended, failed = run(study, at, ERRORS[error], lasting=lasting, folders=folders, thread="tunesafe-backup")
    assert failed is not None
    assert ended.code == 0, ended.output
    assert "Traceback" not in ended.output
    assert differences(lab.reference(BASE).outcome, study.outcome()) == []
    assert ("event backup_unfinished" in ended.output) == lasting, f"{failed}: {ended.output}"
