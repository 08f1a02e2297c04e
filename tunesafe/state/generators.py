"""The global random generators of a process, captured and put back.

Python's ``random``, numpy's legacy global generator, and torch's on every device in use.
A generator that user code makes for itself is not global: it is state like any other, and
is tracked.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from tunesafe.errors import StateError

__all__ = ["capture_generators", "restore_generators"]


def capture_generators() -> dict[str, Any]:
    """The state of every global generator, as a tree for :func:`tunesafe.state.codec.encode`.

    A device whose runtime has not been initialised is left out: nothing was drawn on it.
    """
    version, words, gauss = random.getstate()
    tree: dict[str, Any] = {
        "python": {"version": version, "words": np.array(words, np.uint32), "gauss": gauss},
        "numpy": np.random.get_state(legacy=False),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch's stub
        tree["cuda"] = torch.cuda.get_rng_state_all()
    if torch.backends.mps.is_available():
        tree["mps"] = torch.mps.get_rng_state()
    return tree


def restore_generators(tree: dict[str, Any]) -> None:
    """Continue every generator where :func:`capture_generators` saw it.

    Generators of devices that are not there (another machine) are left as they are.

    Raises:
        StateError: If a generator refuses the state, e.g. one of another numpy bit generator.
    """
    python = tree["python"]
    try:
        random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
        np.random.set_state(tree["numpy"])
        torch.set_rng_state(tree["torch"].cpu())
        if "cuda" in tree and torch.cuda.is_available():
            for index, state in enumerate(tree["cuda"][: torch.cuda.device_count()]):
                torch.cuda.set_rng_state(state.cpu(), index)
        if "mps" in tree and torch.backends.mps.is_available():
            torch.mps.set_rng_state(tree["mps"].cpu())
    except (ValueError, TypeError, RuntimeError) as error:
        raise StateError(
            f"A global random generator refused its saved state: {error}. The checkpoint was not changed."
            " Resume with the versions of Python, numpy and torch that wrote it."
        ) from error
