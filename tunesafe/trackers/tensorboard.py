"""TensorBoard: one run folder per trial, curves over examples."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tunesafe.errors import MissingExtraError

__all__ = ["TensorBoardTracker"]


class TensorBoardTracker:
    """Writes event files to ``<folder>/tensorboard/<number>``.

    Args:
        folder: Beside the study's database.
        number: The trial.
        examples_seen: Where this attempt continues [examples]; later points of earlier attempts are purged.

    Raises:
        MissingExtraError: If tensorboard is not installed.
    """

    def __init__(self, folder: Path, number: int, examples_seen: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - an extra, and slow to import
        except ImportError as error:
            raise MissingExtraError(
                "trackers: [tensorboard] needs the package tensorboard, which is not installed. "
                "The study is not affected. Install it: pip install 'tunesafe[tensorboard]'."
            ) from error
        self._writer = SummaryWriter(str(folder / "tensorboard" / str(number)), purge_step=examples_seen)

    def log(self, values: Mapping[str, float], examples_seen: int) -> None:
        """Add points to curves over examples."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, examples_seen)

    def close(self) -> None:
        """Write what is pending."""
        self._writer.close()
