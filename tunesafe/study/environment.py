"""What numbers depend on beside code and seed: versions, processor, threads.

Recorded when a study begins; a resumption elsewhere works, and an event says from where on.
Reads package metadata and the operating system; imports nothing heavy.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

__all__ = ["describe", "differences"]

_PACKAGES = ("tunesafe", "torch", "numpy", "scipy", "optuna", "cmaes", "greenlet", "sqlalchemy")


def describe() -> dict[str, str | None]:
    """This process's environment, as far as it can change a result.

    ``greenlet`` is in it because its presence was seen to change the numbers of Optuna's
    Gaussian-process sampler.
    """
    versions = {f"version:{name}": _version(name) for name in _PACKAGES}
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processor": _processor(),
        "system": platform.system(),
        **versions,
    }


def differences(then: Mapping[str, object], now: Mapping[str, object]) -> dict[str, list[object]]:
    """What differs between two environments, as ``{what: [then, now]}``."""
    return {key: [then.get(key), now.get(key)] for key in sorted({*then, *now}) if then.get(key) != now.get(key)}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()
