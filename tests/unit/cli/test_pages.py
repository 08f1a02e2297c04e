"""Studies as pages of text."""

from __future__ import annotations

from typing import Any

import pytest

from tunesafe.api import StudyStatus, TrialState
from tunesafe.cli.pages import status_page


def status(**changes: Any) -> StudyStatus:
    """A study at its beginning."""
    values: dict[str, Any] = {
        "name": "digits", "storage": "sqlite:////x/digits.db", "metric": "loss", "direction": "minimize",
        "n_trials": 3, "counts": dict.fromkeys(TrialState, 0), "finished": False, "paused": False, "best": None,
        "active": (), "num_attempts": 0, "num_resumed": 0, "examples_seen": 0, "total_examples": 64,
        "virtual_epochs": 8, "batching": "exact", "live_seconds": 0.0, "timeout_seconds": None, "notes": {},
        "events": (),
    }  # fmt: skip
    return StudyStatus(**values | changes)


@pytest.mark.parametrize(
    ("batching", "meaning"), [("exact", "each is one batch"), ("whole", "some may have no batch of their own")]
)
def test_small_virtual_epochs_mean_what_the_batching_makes_of_them(batching: str, meaning: str) -> None:
    """Where batches are whole, a virtual epoch smaller than one may be without."""
    page = status_page(status(batching=batching, notes={"small_virtual_epochs": 1, "damaged": 2}))
    assert f"\nvirtual epochs are smaller than the batch size of at least one trial: {meaning}\n" in page
    assert page.endswith("\n2 checkpoints were found damaged and passed over")
