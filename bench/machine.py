"""What a measurement was made on: without it a number means nothing."""

from __future__ import annotations

import os
import platform
import sqlite3
from importlib.metadata import version
from pathlib import Path

__all__ = ["describe", "load"]

_PACKAGES = ("torch", "optuna", "SQLAlchemy", "numpy")


def describe() -> str:
    """Processor, memory, system and versions, a line each."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    return "\n".join(
        [
            f"{_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()} {platform.release()}",
            f"Python {platform.python_version()}, {versions}, SQLite {sqlite3.sqlite_version}",
            f"tunesafe {version('tunesafe')}, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset')}",
        ]
    )


def load() -> str:
    """How many processes want to run: above the number of cores, times are another program's, too."""
    return "load {:.1f} (1 min), {:.1f} (5 min)".format(*os.getloadavg()[:2])


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
