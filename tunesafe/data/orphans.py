"""No orphans: a process that does nothing without its parent ends with it.

Linux only; elsewhere orphans notice by themselves, later (a loader's worker within five seconds).
"""

from __future__ import annotations

import ctypes
import signal
import sys

__all__ = ["die_with_parent"]

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Let the kernel kill the calling process (SIGKILL) when the thread that forked it ends.

    A parent that is dead already is not noticed: compare ``os.getppid()`` afterwards.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
