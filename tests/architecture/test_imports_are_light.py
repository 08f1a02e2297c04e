"""Commands that only read start at once: they import neither torch nor Optuna."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.architecture.source import ROOT

HEAVY = ("torch", "optuna", "sklearn", "plotly", "pandas", "matplotlib", "joblib")
PROBE = f"""
import json, sys
try:
    {{statement}}
except SystemExit:
    pass
print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))
"""


def heavy_modules_after(statement: str) -> list[str]:
    """Which heavy modules a fresh interpreter holds after a statement."""
    run = subprocess.run(
        [sys.executable, "-c", PROBE.format(statement=statement)], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert run.returncode == 0, run.stderr
    loaded: list[str] = json.loads(run.stdout.splitlines()[-1])
    return loaded


@pytest.mark.parametrize(
    "module", ["tunesafe", "tunesafe.contracts", "tunesafe.spec", "tunesafe.store", "tunesafe.cli"]
)
def test_importing_is_light(module: str) -> None:
    """Floors that need no tensors and no sampler load none."""
    assert heavy_modules_after(f"import {module}") == []


@pytest.mark.parametrize(
    "command", ["--help", "status --help", "status no-such-study.yaml", "checkpoints list no-such-study.yaml"]
)
def test_reading_commands_are_light(command: str) -> None:
    """``tunesafe status`` answers as fast as its database does."""
    assert heavy_modules_after(f"import tunesafe.cli; tunesafe.cli.main({command.split()!r})") == []
