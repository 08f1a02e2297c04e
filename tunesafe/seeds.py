"""Every seed in a study, derived from the study's one seed and a path of names.

A derived seed depends on its arguments and nothing else, so a resumed process, a second
worker and another machine all draw the same numbers. Pure: no generator lives here.
"""

from __future__ import annotations

import hashlib
import json

__all__ = ["derive", "trial_seed"]


def derive(*path: int | str, bits: int = 31) -> int:
    """Derive a seed from a path of integers and names.

    Args:
        path: What the seed is for, e.g. ``(study_seed, "trial", number)``.
        bits: Size of the result; 31 fits every generator (numpy takes 32, torch 64).

    Returns:
        An integer in ``[0, 2**bits)``, equally likely, stable over versions and machines.

    Example:
        >>> derive(17, "trial", 0) == derive(17, "trial", 0)
        True
        >>> derive(17, "trial", 0) != derive(17, "trial", 1)
        True
    """
    digest = hashlib.blake2b(json.dumps(path).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> (64 - bits)


def trial_seed(study_seed: int, number: int) -> int:
    """The seed of one trial: what ``trial.seed`` shows and user code is seeded with."""
    return derive(study_seed, "trial", number)
