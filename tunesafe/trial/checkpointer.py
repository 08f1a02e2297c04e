"""Saves a trial's memory, and reads it back.

Captured here means copied out of live memory; durable it becomes in its own time, in the
hands of ``TrialServices.save``. What training pays for it is measured, for ``every: auto``; only
when the next one is due depends on that, never what is computed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tunesafe.contracts import Position, Snapshot
from tunesafe.failpoints import failpoint
from tunesafe.state.codec import decode, encode
from tunesafe.state.generators import restore_generators
from tunesafe.trial.costs import Costs
from tunesafe.trial.memory import OWN, Memory, Notes
from tunesafe.trial.services import TrialServices
from tunesafe.trial.triggers import Since

__all__ = ["Checkpointer"]


class Checkpointer:
    """Captures and restores one trial's memory.

    Args:
        services: Where checkpoints go and come from.
        now: A monotonic clock [s].
    """

    def __init__(self, services: TrialServices, now: Callable[[], float]) -> None:
        self._services = services
        self._now = now
        self._stored: tuple[Position, dict[str, Any]] | None = None
        self._read = False
        self._saved_at = now()
        self._saved_examples = 0
        self._costs = Costs()
        self._batch_since = self._saved_at
        self._was_saving = False

    def newest(self) -> tuple[Position, dict[str, Any]] | None:
        """The newest intact checkpoint, read once; ``None`` where training starts at 0."""
        if not self._read:
            stored = self._services.newest_state()
            if stored is not None:
                self._stored = stored.info.position, decode(stored.structure, stored.tensors)
                self._saved_examples = stored.info.position.examples_seen
            self._read = True
        return self._stored

    def newest_notes(self) -> Notes | None:
        """The notes in the newest checkpoint, without restoring anything."""
        newest = self.newest()
        return None if newest is None else Notes(**newest[1][OWN]["notes"])

    def restore(self, memory: Memory) -> Callable[[], None]:
        """Put the newest checkpoint's contents into the objects of this attempt, generators last.

        Returns:
            What puts the generators back once more, for an attempt that resumes inside a virtual
            epoch: user code on the way to the first batch may draw numbers.
        """
        newest = self.newest()
        self._stored = None  # its tensors are large, and the objects hold copies
        self._saved_at = self._now()
        if newest is None:
            return lambda: None
        failpoint("restore.before")
        memory.restore(newest[1])
        generators = newest[1][OWN]["generators"]
        restore_generators(generators)
        failpoint("restore.after")
        return lambda: restore_generators(generators)

    def since_newest(self) -> Since:
        """The newest checkpoint, as seen from now."""
        seconds = self._now() - self._saved_at
        return Since(self._saved_examples, seconds, self._costs.of_one, self._services.is_saving())

    def batch_begins(self) -> None:
        """Training goes on from here: what was before is not part of the next batch's time."""
        self._batch_since, self._was_saving = self._now(), self._services.is_saving()

    def batch_ends(self, num_examples: int) -> None:
        """A batch was trained, and the next begins."""
        since, was_saving = self._batch_since, self._was_saving
        self.batch_begins()
        self._costs.trained(self._batch_since - since, num_examples, beside=was_saving or self._was_saving)

    def save(self, position: Position, memory: Memory) -> None:
        """Capture the memory as it is, and hand it on to become durable.

        Raises:
            StateError: If something in it cannot be stored.
        """
        begun = self._now()
        failpoint("capture.before")
        structure, tensors = encode(memory.capture(), allocate=self._services.memory)
        failpoint("capture.after")
        self._services.save(Snapshot(position, structure, tensors))
        self._saved_at = self._now()
        self._saved_examples = position.examples_seen
        self._costs.stalled(self._saved_at - begun)
        self.batch_begins()
