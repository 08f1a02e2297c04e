"""How long every trial trains: the same number of examples for each.

The total is exact arithmetic on what the file says; binary floating point would make
``0.29`` of 100 examples 28.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tunesafe.spec.faults import WRITTEN, refuse
from tunesafe.spec.values import Count, Passes, Section

__all__ = ["Budget"]

_Size = Annotated[int, Field(ge=1, lt=2**63)]


class Budget(Section):
    """The length of one trial, and how it is divided.

    Example:
        >>> Budget(passes=0.29, virtual_epochs=1).total_examples(100)
        29
    """

    passes: Passes | None = None
    """Times over the training set; may be fractional. Give this or examples."""
    examples: _Size | None = None
    """Length of a trial [examples]. Give this or passes."""
    virtual_epochs: Count
    """How many times a trial validates, reports, checkpoints and is judged."""
    examples_per_pass: _Size | None = None
    """Length of the training set [examples]; unless given, the first trial settles it."""
    batching: Literal["exact", "whole"] = "exact"
    """exact: batches end on virtual epochs; whole: full batches, a virtual epoch ends with one of them."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.passes is None) == (self.examples is None):
            both = self.examples is not None
            refuse(
                f"has {'both' if both else 'neither'} 'passes' {'and' if both else 'nor'} 'examples'; give one of them"
            )
        if self.examples is not None or self.examples_per_pass is not None:
            self.check_length(self.examples_per_pass)
        return self

    def check_length(self, examples_per_pass: int | None) -> None:
        """Refuse more virtual epochs than examples (inside a validator)."""
        total = self.total_examples(examples_per_pass or 1)
        if self.virtual_epochs > total:
            refuse(f"must be at most {total:,}, the examples of a whole trial, found {WRITTEN}", "virtual_epochs")

    def total_examples(self, examples_per_pass: int) -> int:
        """Length of one trial [examples]: ``examples``, or ``floor(passes * examples_per_pass)``.

        Args:
            examples_per_pass: Length of the training set [examples]; unused with ``examples``.
        """
        if self.examples is not None:
            return self.examples
        return math.floor(Fraction(self.passes or 0) * examples_per_pass)
