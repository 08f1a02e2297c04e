"""The Python door with several workers: a script whose function other processes import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.cli_project import TRAIN, environment

pytestmark = pytest.mark.timeout(240)

SCRIPT = """
import sys
import tunesafe

def main():
    study = tunesafe.Study(
        name="script",
        trainable=train,
        parameters={"lr": {"type": "float", "low": 0.01, "high": 0.1}, "batch_size": 8},
        budget={"examples": 64, "virtual_epochs": 2},
        objective={"metric": "loss", "direction": "minimize"},
        n_trials=4,
        n_workers=2,
        folder=sys.argv[1] if len(sys.argv) > 1 else None,
    )
    result = study.run()
    print(int(result.exit_code), len({trial.number for trial in study.trials}), study.status().n_trials)
"""


def run(folder: Path, tail: str) -> subprocess.CompletedProcess[str]:
    """Run the script with this end, in its folder."""
    (folder / "script.py").write_text(TRAIN + SCRIPT + tail)
    return subprocess.run(
        [sys.executable, "script.py", str(folder)],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_script_runs_its_own_function_in_several_workers(tmp_path: Path) -> None:
    """The function is given as it is; the workers import the script by its file."""
    ended = run(tmp_path, "\n\nif __name__ == '__main__':\n    main()\n")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == "0 4 4"


def test_a_script_that_every_worker_would_run_again_is_told_what_to_do(tmp_path: Path) -> None:
    """No worker starts workers of its own; nothing is created."""
    ended = run(tmp_path, "\n\nmain()\n")
    assert ended.returncode == 1
    assert "Put what only the script itself is to do under `if __name__ == '__main__':`" in ended.stderr
    assert not (tmp_path / "script.db").exists()
