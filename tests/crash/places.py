"""At which places, and in which order, studies of the crash matrix die."""

from __future__ import annotations

from tests.crash.harness import Kill, Reference
from tunesafe.failpoints import FAILPOINTS

__all__ = ["ON_SERVERS", "deaths_at", "in_turn"]

ON_SERVERS = [failpoint for failpoint in FAILPOINTS if not failpoint.startswith("pack.")]
"""Packs are beside SQLite files only; a server keeps all bytes in its tables."""


def in_turn() -> list[str]:
    """Every failpoint, in an order in which one study meets all of them: a state is restored once there is one."""
    restoring = ["restore.before", "restore.after"]
    order = [failpoint for failpoint in FAILPOINTS if failpoint not in restoring]
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
