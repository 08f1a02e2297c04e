"""The digits study's trainable, in a worker that measures its parts.

Copied beside ``studies/digits.py`` and named in the study file, so that the worker imports it. It
writes what each part took beside training [s] into the file that ``TUNESAFE_BENCH_PARTS`` names.
"""

from __future__ import annotations

import atexit
import json
import os
import threading
from collections import Counter
from functools import wraps
from pathlib import Path
from time import perf_counter
from typing import Any

from digits import train

from tunesafe.study.claiming import Claimant
from tunesafe.study.lease import LeaseKeeper
from tunesafe.study.ledger import Ledger
from tunesafe.study.retaining import Retainer
from tunesafe.trial.checkpointer import Checkpointer
from tunesafe.worker.services import LedgerServices

__all__ = ["train"]

_PARTS = {
    "claim": [(Claimant, "claim")],
    "draw": [(Ledger, "draw")],
    "record": [(LedgerServices, "record")],
    "capture": [(Checkpointer, "save")],
    "blobs": [(LedgerServices, "save"), (Retainer, "after_end")],
    "finish": [(Ledger, "finish"), (Ledger, "close")],
    "lease": [(LeaseKeeper, "beat")],
}
_seconds: Counter[str] = Counter()
_inner = threading.local()


def _measure(part: str, owner: type, method: str) -> None:
    """Count the time a method takes, without that of other parts inside it."""
    function = getattr(owner, method)

    @wraps(function)
    def measured(*args: Any, **kwargs: Any) -> Any:
        begun = perf_counter()
        _seconds.setdefault("begun", begun)
        outer, _inner.seconds = getattr(_inner, "seconds", 0.0), 0.0
        try:
            return function(*args, **kwargs)
        finally:
            _seconds["ended"] = perf_counter()
            elapsed = _seconds["ended"] - begun
            _seconds[part] += elapsed - _inner.seconds
            _inner.seconds = outer + elapsed

    setattr(owner, method, measured)


for _part, _methods in _PARTS.items():
    for _owner, _method in _methods:
        _measure(_part, _owner, _method)
atexit.register(lambda: Path(os.environ["TUNESAFE_BENCH_PARTS"]).write_text(json.dumps(_seconds), encoding="utf-8"))
