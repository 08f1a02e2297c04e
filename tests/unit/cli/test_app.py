"""Errors become messages and exit codes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import tunesafe
from tests.integration.cli_project import write_project
from tunesafe.api import Study
from tunesafe.cli import main
from tunesafe.errors import (
    ChangeRefusedError,
    DamagedError,
    LeaseLostError,
    MissingExtraError,
    SpecError,
    StorageError,
    TunesafeError,
)

CODES = {
    TunesafeError: 1,
    SpecError: 2,
    ChangeRefusedError: 2,
    MissingExtraError: 2,
    StorageError: 3,
    DamagedError: 4,
    LeaseLostError: 5,
}


def raising(error: Exception) -> Callable[[Study], None]:
    """Something in a study's place that raises."""

    def method(self: Study) -> None:
        raise error

    return method


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny study's folder, as working directory."""
    monkeypatch.chdir(tmp_path)
    return write_project(tmp_path).parent


@pytest.mark.parametrize(("kind", "code"), CODES.items(), ids=lambda value: getattr(value, "__name__", str(value)))
def test_an_error_is_its_message_and_its_code(
    kind: type[TunesafeError],
    code: int,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No traceback: what happened is in the message."""
    monkeypatch.setattr(Study, "status", raising(kind("what happened")))
    with pytest.raises(SystemExit) as ended:
        main(["status"])
    assert ended.value.code == code
    assert capsys.readouterr() == ("", "what happened\n")


def test_the_traceback_is_shown_on_demand(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With TUNESAFE_DEBUG=1 the error is raised."""
    monkeypatch.setenv("TUNESAFE_DEBUG", "1")
    monkeypatch.setattr(Study, "status", raising(StorageError("what happened")))
    with pytest.raises(StorageError):
        main(["status"])


def test_a_bug_is_not_dressed_up(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is not raised on purpose keeps its traceback."""
    monkeypatch.setattr(Study, "status", raising(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        main(["status"])


def test_ctrl_c_before_training_says_that_it_can_be_run_again(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Even while torch is being imported."""

    def interrupted(self: Study, *arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Study, "run", interrupted)
    with pytest.raises(SystemExit) as ended:
        main(["run", "study.yaml"])
    assert ended.value.code == 75
    assert "run the same command again" in capsys.readouterr().err


def test_commands_and_options_are_the_agreed_ones(capsys: pytest.CaptureFixture[str]) -> None:
    """The ratchet: scripts rely on them."""
    options = {
        "init": [],
        "check": ["--set", "--json"],
        "run": ["-w", "--workers", "--set", "--accept-changes"],
        "status": ["--json", "--watch"],
        "show": ["--json"],
        "best": ["--json"],
        "logs": ["--json"],
        "export": ["-o", "--output", "--trial", "--virtual-epoch", "--json"],
        "restore": [],
        "checkpoints": [],
        "checkpoints list": ["--trial", "--json"],
        "checkpoints show": ["--virtual-epoch", "--json"],
        "checkpoints verify": ["--trial", "--json"],
        "checkpoints prune": ["--dry-run", "--json"],
    }
    with pytest.raises(SystemExit):
        main(["--help"])
    page = capsys.readouterr().out
    listed = [line.split()[0] for line in page.partition("Commands:")[2].splitlines() if line[2:3].strip()]
    assert listed == [command for command in options if " " not in command]
    for command, names in options.items():
        with pytest.raises(SystemExit):
            main([*command.split(), "--help"])
        page = capsys.readouterr().out
        found = {word.strip(",") for line in page.splitlines() for word in line.split()[:2] if line[2:3] == "-"}
        assert {word for word in found if word.startswith("-")} == {*names, "-h", "--help"}


def test_the_module_is_the_command() -> None:
    """``python -m tunesafe`` where no script is installed."""
    words = [sys.executable, "-m", "tunesafe", "--version"]
    run = subprocess.run(words, capture_output=True, text=True, check=False)
    assert run.stdout == f"tunesafe {tunesafe.__version__}\n"
