"""Everything of a running trial that a checkpoint holds.

One tree: what user code tracks, under its own names, and the trial's own notes beside it.
Generators are part of it, and are restored last: restoring a module may draw numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tunesafe.data.stream import EndlessStream
from tunesafe.errors import TrialError
from tunesafe.state.generators import capture_generators
from tunesafe.state.tracked import capture, restore
from tunesafe.trial.means import Means
from tunesafe.trial.metrics import History
from tunesafe.trial.schedule import Schedule

__all__ = ["OWN", "Memory", "Notes"]

OWN = "tunesafe"
"""Where a trial keeps its own notes, beside the names user code tracks."""


@dataclass
class Notes:
    """What a trial remembers of itself.

    Args:
        total: Length of the whole trial [examples]; 0 until it is known.
        history: Metrics reported so far.
        result: Final metrics that are not judged.
        stopped: Why the trial ends before its last virtual epoch, if it does.
        returned: Whether user code has returned: nothing is left to do.
        inside: Whether the state was captured inside a virtual epoch.
    """

    total: int = 0
    history: History = field(default_factory=dict)
    result: dict[str, float] = field(default_factory=dict)
    stopped: str | None = None
    returned: bool = False
    inside: bool = False


class Memory:
    """The live objects of one attempt, captured into a tree and restored from one."""

    def __init__(self) -> None:
        self.notes = Notes()
        self.tracked: dict[str, Any] = {}
        self.means = Means()
        self.schedules: list[Schedule] = []
        self.streams: dict[str, EndlessStream] = {}

    def capture(self) -> dict[str, Any]:
        """The tree as it is now; leaves may be live objects, to be copied at once."""
        own = {
            "format": 1,
            "notes": vars(self.notes),
            "means": self.means.capture(),
            "schedules": [schedule.state_dict() for schedule in self.schedules],
            "streams": {name: stream.state_dict() for name, stream in self.streams.items()},
            "generators": capture_generators(),
        }
        return {**capture(self.tracked), OWN: own}

    def restore(self, tree: Mapping[str, Any]) -> None:
        """Put everything back but the generators.

        Raises:
            StateError: If an object does not come back as it was stored.
            TrialError: If schedules or streams differ from those stored.
        """
        own = tree[OWN]
        _same("trial.schedule(…)", len(own["schedules"]), len(self.schedules))
        _same("trial.stream(…)", sorted(own["streams"]), sorted(self.streams))
        restore(self.tracked, {name: value for name, value in tree.items() if name != OWN})
        self.notes = Notes(**own["notes"])
        self.means.restore(own["means"])
        for schedule, stored in zip(self.schedules, own["schedules"], strict=True):
            schedule.load_state_dict(stored)
        for name, stored in own["streams"].items():
            self.streams[name].load_state_dict(stored)


def _same(call: str, stored: object, now: object) -> None:
    if stored != now:
        raise TrialError(
            f"This attempt called {call} differently from the one its checkpoint is of: {stored} then, {now} now. "
            f"The checkpoint is untouched. Call it the same way at every attempt, before trial.virtual_epochs."
        )
