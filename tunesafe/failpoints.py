"""Named places where a test can kill the process.

Crash safety is proved by dying at each of them. A failpoint costs one dictionary look-up
when no test is watching. ``TUNESAFE_FAILPOINT=name`` kills the process (SIGKILL) when it
passes ``name``; ``name:3`` at the third passing; ``TUNESAFE_FAILPOINT_ACTION=raise`` raises
``OSError(ENOSPC)`` instead, for the tests of full disks.
"""

from __future__ import annotations

import errno
import os
import signal

__all__ = ["FAILPOINTS", "arm", "failpoint"]

FAILPOINTS: dict[str, str] = {
    "open.locked": "first open: the lock is held, nothing exists",
    "open.schema": "first open: our tables exist, Optuna's do not",
    "open.optuna": "first open: Optuna's tables exist, the study does not",
    "open.study": "first open: our study exists, Optuna's does not",
    "open.done": "first open: both exist",
    "claim.before": "before a trial is claimed",
    "claim.in_transaction": "inside the transaction that creates and claims a trial, before its commit",
    "claim.after": "the trial is claimed, nothing is sampled",
    "sample.memo": "the joint draw is computed, not yet memoised",
    "sample.memoised": "the joint draw is memoised",
    "sample.parameter": "one more parameter is set in Optuna",
    "sample.sealed": "all parameters are drawn and sealed in our row",
    "train.batch": "between two batches",
    "report.judged": "the pruner has run on a copy, nothing is written",
    "report.in_transaction": "inside the transaction that carries record and intermediate value, before its commit",
    "report.recorded": "the record is durable, its buffered writes are not applied",
    "report.applied": "the report is applied to Optuna, not yet returned to user code",
    "capture.before": "a checkpoint is due, nothing is captured",
    "capture.after": "the state is captured in memory",
    "pack.written": "all bytes of a pack are written or handed over, and not yet durable",
    "pack.durable": "a pack is durable, no row names it",
    "blob.written": "one more blob is written, the checkpoint is not committed",
    "checkpoint.in_transaction": "inside the transaction that commits a checkpoint",
    "checkpoint.committed": "the checkpoint is durable, older ones are not removed",
    "surplus.in_transaction": "older checkpoints' rows are deleted, not committed (SQLite: with the new one's)",
    "surplus.committed": "older checkpoints are forgotten, their bytes are there",
    "checkpoint.swept": "older checkpoints are removed",
    "forget.in_transaction": "inside the transaction that forgets checkpoints nobody asked to keep, before its commit",
    "forget.committed": "they are forgotten, their bytes are there",
    "restore.before": "a resumed attempt is about to load its state",
    "restore.after": "the state is loaded, training has not begun",
    "finish.before": "training has ended, the outcome is not recorded",
    "finish.recorded": "the outcome is recorded (closing), Optuna is not told",
    "finish.attributes": "user attributes are written, Optuna is not told",
    "tell.after_trial": "the sampler's after_trial has run, the state is not set",
    "tell.in_transaction": "inside the transaction that ends the Optuna trial",
    "tell.after": "Optuna is told",
    "finish.swept": "the finished trial's surplus checkpoints are removed",
    "backup.snapshot": "the database is copied, nothing is in the second place",
    "backup.sending": "one more block of a pack or of the database is on its way to the second place",
    "backup.packs": "one more pack is in the second place",
    "backup.uploaded": "the copy of the database is there too",
    "backup.pointing": "everything is there, the pointer names the copy before",
    "backup.pointed": "the pointer names the new copy, what only the one before needs is there",
    "backup.cleaned": "what no pointer names is removed",
    "backup.kept": "how it went is kept for status",
    "fetch.claimed": "a second place is taken over, nothing is fetched",
    "fetch.pack": "one more pack is fetched",
    "fetch.verified": "the whole study is fetched and verified, nothing is in its place",
    "fetch.moving": "one more part of it is about to be moved to its place",
    "fetch.moved": "all of it is in its place",
    "fetch.cleaned": "the folder it was fetched to is gone, the list of what was fetched is there",
}
"""Every failpoint and where it stands. The crash matrix kills at each of them."""


_KILL, _RAISE = "kill", "raise"
_armed: str | None = None
_countdown = 0
_action = _KILL


def arm(name: str | None, passing: int = 1, action: str = _KILL) -> None:
    """Choose where this process dies.

    Args:
        name: A failpoint; ``None`` for none.
        passing: At which passing, 1-based.
        action: ``kill`` (SIGKILL) or ``raise`` (``OSError`` ENOSPC, once).

    Raises:
        ValueError: If there is no such failpoint or action.
    """
    global _armed, _countdown, _action
    if name is not None and name not in FAILPOINTS:
        raise ValueError(f"{name!r} names no failpoint; there are: {', '.join(FAILPOINTS)}")
    if action not in (_KILL, _RAISE):
        raise ValueError(f"{action!r} is no action of a failpoint; there are: {_KILL}, {_RAISE}")
    _armed, _countdown, _action = name, passing, action


def failpoint(name: str) -> None:
    """Die here if a test asked for it; otherwise do nothing."""
    global _countdown
    if name != _armed:
        return
    _countdown -= 1
    if _countdown == 0:
        if _action == _RAISE:
            raise OSError(errno.ENOSPC, "No space left on device (failpoint)")
        os.kill(os.getpid(), signal.SIGKILL)


def _arm_from_environment() -> None:
    name, _, passing = os.environ.get("TUNESAFE_FAILPOINT", "").partition(":")
    arm(name or None, int(passing or 1), os.environ.get("TUNESAFE_FAILPOINT_ACTION", _KILL))


_arm_from_environment()
