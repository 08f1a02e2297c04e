"""Studies as pages of text."""

from __future__ import annotations

from typing import Any

import pytest

from tunesafe.api import CheckpointList, PruneResult, StudyStatus, TrialState
from tunesafe.cli.pages import checkpoints_page, prune_sentence, status_page
from tunesafe.store.blobs import StoredBytes


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


@pytest.mark.parametrize(
    ("blobs", "where", "beside"),
    [(None, "in packs beside it", True), ("s3://bucket/large", "at s3://bucket/large", False)],
)
def test_every_page_says_where_large_checkpoints_are(blobs: str | None, where: str, beside: bool) -> None:
    """Beside the database, or at the place of ``blobs``."""
    amounts = StoredBytes(2_000, 5_000_000)
    pages = (
        checkpoints_page(CheckpointList((), 0, amounts, blobs)),
        prune_sentence(PruneResult((), amounts, False, blobs=blobs)),
    )
    assert [page.endswith(f" 5 MB {where}") for page in pages] == [True, True], pages
    assert [" beside it" in page for page in pages] == [beside, beside]
    assert f"large checkpoints {where}" in status_page(status(blobs=blobs)) or beside
