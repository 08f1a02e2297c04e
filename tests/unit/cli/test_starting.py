"""``tunesafe init``."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tunesafe.cli.starting import init
from tunesafe.errors import SpecError
from tunesafe.spec import load_spec


def test_the_project_is_complete_and_valid(tmp_path: Path) -> None:
    """A study file that loads, a trainable that parses and holds what the study file names."""
    init(tmp_path / "deep" / "project")
    folder = tmp_path / "deep" / "project"
    assert {path.name for path in folder.iterdir()} == {"README.md", "study.schema.json", "study.yaml", "train.py"}
    spec = load_spec(folder / "study.yaml")
    assert spec.trainable == "train.py:train"
    tree = ast.parse((folder / "train.py").read_text())
    assert "train" in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_files_that_are_there_are_never_overwritten(tmp_path: Path) -> None:
    """One of them is enough to write nothing; other files do not matter."""
    (tmp_path / "notes.txt").write_text("mine")
    init(tmp_path)
    (tmp_path / "README.md").unlink()
    (tmp_path / "train.py").write_text("mine")
    with pytest.raises(SpecError, match=r"already holds study\.yaml, train\.py, study\.schema\.json"):
        init(tmp_path)
    assert (tmp_path / "train.py").read_text() == "mine"
    assert not (tmp_path / "README.md").exists()


def test_a_file_is_no_place_for_a_project(tmp_path: Path) -> None:
    """Its name is in the error."""
    (tmp_path / "project").write_text("mine")
    with pytest.raises(SpecError, match="is a file"):
        init(tmp_path / "project")


def test_what_is_missing_for_the_example_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The extra that brings the data, before the run fails over it."""
    monkeypatch.setattr("tunesafe.cli.starting.find_spec", lambda name: None)
    init(tmp_path)
    assert "pip install 'tunesafe[examples]'" in capsys.readouterr().err
