"""What a running trial asks of the world: the one protocol between user code and a study.

The worker answers from ledger, checkpoint store and lease; a ``FixedTrial`` from memory. So
the loop is tested without a database.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from tunesafe.contracts import Judgement, Report, Snapshot, StoredState

__all__ = ["TrialServices"]


class TrialServices(Protocol):
    """What a running trial asks of the world: a ledger in a study, memory in a ``FixedTrial``.

    Every method may raise ``LeaseLostError`` (another worker has the trial) or
    ``StorageError``; both end the attempt without an outcome.
    """

    def settle_examples_per_pass(self, num_examples: int) -> int:
        """Fix the length of one pass for the whole study.

        Args:
            num_examples: Length of the training set this trial holds [examples].

        Returns:
            The settled length: the given one if this trial is the first to ask.

        Raises:
            SpecError: If it was settled differently and the study file does not name it.
        """

    def newest_state(self) -> StoredState | None:
        """Read back the newest intact checkpoint; ``None`` where training starts at 0."""

    def record(self, report: Report) -> Judgement:
        """Make a report durable, then judge it (or return the verdict recorded earlier)."""

    def memory(self, num_bytes: int) -> memoryview:
        """Writable, aligned memory for the next snapshot; an earlier checkpoint's failure surfaces here."""

    def save(self, snapshot: Snapshot) -> None:
        """Make a checkpoint durable, in its own time; its memory is the services' until they give it out again."""

    def is_saving(self) -> bool:
        """Whether a checkpoint is on its way to becoming durable; cheap, asked per batch."""

    def interruption(self) -> str | None:
        """Why the trial should leave at the next safe point, if it should; cheap, asked per batch."""

    def log(self, values: Mapping[str, float], examples_seen: int) -> None:
        """Hand values to trackers."""

    def artifact(self, path: Path) -> None:
        """Keep a copy of a file with the trial."""

    def event(self, kind: str, **details: Any) -> None:
        """Note something worth knowing later."""
