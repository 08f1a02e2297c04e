"""The digits study's trainable, which notes when it trained which trial.

Copied with ``spans.py`` beside ``studies/digits.py`` and named in the study file.
"""

from __future__ import annotations

import digits
from spans import keep_span

import tunesafe

__all__ = ["train"]


def train(trial: tunesafe.Trial) -> None:
    """Train one configuration."""
    with keep_span(trial.number):
        digits.train(trial)
