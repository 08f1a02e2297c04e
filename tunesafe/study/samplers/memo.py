"""Memos: values written ahead into a trial's system attributes.

An attribute is one text column, 64 KB on MySQL, so a long value becomes several. Chunk 0 is
written last and says how many there are: with it the memo is there, without it it is not.

Pure: what to write and what was written, as values.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution

from tunesafe.contracts import AttributeWrite

__all__ = ["CHUNK_SIZE", "Draw", "read_text", "text_writes"]

CHUNK_SIZE = 16_000
"""Characters per attribute; quoting as JSON may double them, and 64 KB is what every database takes."""

_DRAW_KEY = "tunesafe:draw"


def text_writes(key: str, text: str) -> list[AttributeWrite]:
    """The writes that store a text under a key, in the order they must be made.

    Args:
        key: Attribute name, without the chunk's number.
        text: Any ASCII text.

    Example:
        >>> text_writes("memo", "abc")
        [AttributeWrite(key='memo:0', value='1:abc')]
    """
    num_chunks = max(1, math.ceil(len(text) / CHUNK_SIZE))
    chunks = [text[i * CHUNK_SIZE : (i + 1) * CHUNK_SIZE] for i in range(num_chunks)]
    chunks[0] = f"{num_chunks}:{chunks[0]}"
    return [AttributeWrite(f"{key}:{i}", chunks[i]) for i in reversed(range(num_chunks))]


def read_text(key: str, attributes: Mapping[str, Any]) -> str | None:
    """The text under a key; ``None`` unless all of it was written."""
    first = attributes.get(f"{key}:0")
    if first is None:
        return None
    num_chunks, _, start = str(first).partition(":")
    return start + "".join(attributes[f"{key}:{i}"] for i in range(1, int(num_chunks)))


@dataclass(frozen=True, slots=True)
class Draw:
    """A joint draw and all that making it would have written.

    Args:
        space: The distributions the draw is over.
        params: The drawn values, by parameter name; may be fewer than ``space``.
        trial_writes: System attributes the sampler wants on the trial.
        study_writes: System attributes the sampler wants on the study.
    """

    space: Mapping[str, BaseDistribution] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    trial_writes: tuple[AttributeWrite, ...] = ()
    study_writes: tuple[AttributeWrite, ...] = ()

    def writes(self) -> list[AttributeWrite]:
        """The trial attributes that are this draw's memo, in the order they must be written.

        Values are in Optuna's internal form, in which a choice is its index: ``True`` and ``1``
        stay apart, and a value read back is the value Optuna itself would read back.
        """
        document = {
            "space": {name: distribution_to_json(distribution) for name, distribution in self.space.items()},
            "params": {name: float(self.space[name].to_internal_repr(v)) for name, v in self.params.items()},
            "trial": [[write.key, write.value] for write in self.trial_writes],
            "study": [[write.key, write.value] for write in self.study_writes],
        }
        return text_writes(_DRAW_KEY, json.dumps(document, separators=(",", ":")))

    @classmethod
    def read(cls, attributes: Mapping[str, Any]) -> Draw | None:
        """The draw memoised in a trial's system attributes, if it was."""
        text = read_text(_DRAW_KEY, attributes)
        if text is None:
            return None
        document = json.loads(text)
        space = {name: json_to_distribution(distribution) for name, distribution in document["space"].items()}
        return cls(
            space=space,
            params={name: space[name].to_external_repr(value) for name, value in document["params"].items()},
            trial_writes=tuple(AttributeWrite(key, value) for key, value in document["trial"]),
            study_writes=tuple(AttributeWrite(key, value) for key, value in document["study"]),
        )
