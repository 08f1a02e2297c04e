"""TensorBoard: one run folder per trial, curves over examples."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

__all__ = ["TensorBoardTracker"]


class TensorBoardTracker:
    """Writes event files to ``<folder>/tensorboard/<number>``.

    Args:
        folder: Beside the study's database.
        number: The trial.
        examples_seen: Where this attempt continues [examples]; later points of earlier attempts are purged.
    """

    def __init__(self, folder: Path, number: int, examples_seen: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - an extra, and slow to import

        self._writer = SummaryWriter(str(folder / "tensorboard" / str(number)), purge_step=examples_seen)

    def log(self, values: Mapping[str, float], examples_seen: int) -> None:
        """Add points to curves over examples."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, examples_seen)

    def close(self) -> None:
        """Write what is pending."""
        self._writer.close()
