"""What a command is pointed at."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.cli_project import write_project
from tunesafe.cli.targets import open_target, split_number
from tunesafe.errors import SpecError, StorageError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the tiny study in it."""
    write_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("words", [["x"], ["1.5"], ["a", "b", "1"], ["study.yaml", "²"], ["study.yaml", ""]])
def test_what_is_no_trial_number_is_refused(words: list[str]) -> None:
    """With an example of what would be."""
    with pytest.raises(SpecError, match=r"study\.yaml 17"):
        split_number(words)


def test_the_one_study_file_of_a_folder_is_found(folder: Path) -> None:
    """Other YAML files do not count."""
    (folder / "compose.yml").write_text("services: {}\n")
    assert open_target(None).spec.name == "tiny"


def test_several_study_files_are_named(folder: Path) -> None:
    """Which one is meant is the user's to say."""
    (folder / "second.yaml").write_text((folder / "study.yaml").read_text())
    with pytest.raises(SpecError, match=r"second\.yaml, study\.yaml"):
        open_target(None)


def test_a_folder_without_a_study_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And how to name one."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError, match="no study file"):
        open_target(None)


def test_a_storage_url_is_not_taken_for_a_file(folder: Path) -> None:
    """A database that does not exist is not created."""
    with pytest.raises(StorageError, match="Nothing was created"):
        open_target(f"sqlite:///{folder}/none.db#tiny")
    assert not (folder / "none.db").exists()
