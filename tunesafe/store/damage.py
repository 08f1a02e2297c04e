"""What is wrong with a checkpoint that cannot be read, and what is not."""

from __future__ import annotations

from collections.abc import Collection

from tunesafe.contracts import CheckpointInfo
from tunesafe.errors import DamagedError, TunesafeError

__all__ = ["FoundDamaged", "RemovedError", "damaged", "removed"]


class FoundDamaged(DamagedError):
    """A checkpoint is not what was written.

    Args:
        message: What is wrong with which one.
        blob_ids: Blobs whose bytes are wrong or missing.
    """

    def __init__(self, message: str, blob_ids: Collection[int] = ()) -> None:
        self.blob_ids = blob_ids
        super().__init__(message)


class RemovedError(TunesafeError):
    """A checkpoint was removed while it was being read: another process needed it no longer."""


def damaged(info: CheckpointInfo, what: str, blob_ids: Collection[int] = ()) -> FoundDamaged:
    """The error about a damaged checkpoint.

    Args:
        info: Which one.
        what: What is wrong with it.
        blob_ids: Blobs whose bytes are wrong or missing.
    """
    return FoundDamaged(
        f"Checkpoint of trial {info.number} at example {info.position.examples_seen:,} is damaged: {what}.\n"
        "Records, other trials and other checkpoints without these bytes are not affected. When the trial is resumed, "
        "it continues from its newest intact checkpoint.",
        blob_ids,
    )


def removed(info: CheckpointInfo) -> RemovedError:
    """The error about a checkpoint that is gone, as it may be."""
    return RemovedError(
        f"The checkpoint of trial {info.number} at example {info.position.examples_seen:,} was removed while it was "
        "being read: a newer or better one has taken its place. Nothing is damaged. Run the same command again."
    )
