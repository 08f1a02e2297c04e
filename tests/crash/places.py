"""At which places, and in which order, studies of the crash matrix die."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.crash.harness import Kill, Reference
from tunesafe.failpoints import FAILPOINTS

__all__ = ["COPYING", "FETCHING", "ON_SERVERS", "PLACES", "SERVERS", "deaths_at", "in_turn", "one_now"]

COPYING = [failpoint for failpoint in FAILPOINTS if failpoint.startswith("backup.")]
"""Passed by studies with a second place only: see ``test_backup``."""
FETCHING = [failpoint for failpoint in FAILPOINTS if failpoint.startswith("fetch.")]
"""Passed by ``tunesafe restore`` only: as above."""
PLACES = [failpoint for failpoint in FAILPOINTS if failpoint not in (*COPYING, *FETCHING)]
"""Passed by every study."""
ON_SERVERS = [failpoint for failpoint in PLACES if not failpoint.startswith("pack.")]
"""Packs are beside SQLite files only; a server keeps all bytes in its tables."""


SERVERS = [pytest.param(server, marks=getattr(pytest.mark, server)) for server in ("postgres", "mariadb")]
"""As parameters."""


def one_now(parameters: Sequence[Any], now: str) -> list[Any]:
    """One of some parameters in every run of the tests, the others in the long one."""
    values = [getattr(each, "values", (each,))[0] for each in parameters]
    marks = [list(getattr(each, "marks", ())) for each in parameters]
    return [
        pytest.param(value, marks=mark if value == now else [*mark, pytest.mark.slow])
        for value, mark in zip(values, marks, strict=True)
    ]


def in_turn() -> list[str]:
    """Every failpoint that all studies pass, in an order in which one meets them: restoring once there is a state."""
    restoring = ["restore.before", "restore.after"]
    order = [failpoint for failpoint in PLACES if failpoint not in restoring]
    after = order.index("checkpoint.committed") + 1
    return order[:after] + restoring + order[after:]


def deaths_at(failpoint: str, which: str, reference: Reference) -> list[Kill]:
    """A death at the first, middle or last passing of a failpoint in an uninterrupted run.

    And an earlier one, for failpoints that each run passes once at most: it makes the run that passes them.
    """
    if failpoint.startswith("open."):
        before = {
            "first": [],
            "middle": [reference.passing("train.batch", "middle")],
            "last": [reference.passing("finish.swept", "last")],
        }[which]
        return [*before, Kill(failpoint)]
    if failpoint.startswith("restore."):
        captures = reference.passings["capture.before"]
        return [Kill("capture.before", {"first": 2, "middle": captures // 2, "last": captures}[which]), Kill(failpoint)]
    return [reference.passing(failpoint, which)]
