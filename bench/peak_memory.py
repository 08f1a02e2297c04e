"""How much memory checkpoints need on top of a state: ``python bench/peak_memory.py MEGABYTES`` prints [bytes].

In a process of its own, because its highest mark counts: state first, then three checkpoints as a trial makes
them, captured into memory that is used again, and written by the thread beside.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from studies_of_states import StateStudy

_CLEAR_HIGHEST = "5"


def main() -> None:
    """Measure, and print one number."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="tunesafe-bench-") as folder:
        study = StateStudy(f"sqlite:///{folder}/study.db", int(sys.argv[1]))
        study.small_save()  # what the first checkpoint of any size imports and opens
        Path("/proc/self/clear_refs").write_text(_CLEAR_HIGHEST, encoding="ascii")
        before = _resident("VmRSS")
        for _ in range(3):
            study.change()
            study.submit()
        study.wait()
        print(_resident("VmHWM") - before)
        study.close()


def _resident(what: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(what + ":"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {what}")


if __name__ == "__main__":
    main()
