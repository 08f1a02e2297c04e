"""A study on a disk that is mounted read-only: what is there can be looked at, and a finished one is finished."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.cli_project import STUDY, Run, command, environment, tunesafe, tunesafe_here, write_project

IN_A_READ_ONLY_MOUNT = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && cd "$0" && exec "$@"'


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny study, run to its end."""
    folder = tmp_path_factory.mktemp("finished")
    write_project(folder)
    assert tunesafe_here("run", "study.yaml", cwd=folder).code == 0
    return folder


@pytest.fixture
def project(finished: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of it that whoever is not root cannot write."""
    folder = shutil.copytree(finished, tmp_path / "project")
    places = [folder, *folder.rglob("*")]
    for place in places:
        place.chmod(0o555 if place.is_dir() else 0o444)
    yield folder
    for place in places:
        place.chmod(0o755)


def read_only(project: Path, *arguments: str | Path) -> Run:
    """Run a command that cannot write to the project's folder; root needs a mount that only this command sees."""
    if os.geteuid() != 0:
        return tunesafe(*arguments, cwd=project)
    there = ["unshare", "--mount", "sh", "-c", IN_A_READ_ONLY_MOUNT, str(project)]
    if shutil.which("unshare") is None or subprocess.run([*there, "true"], check=False).returncode:
        pytest.skip(f"root cannot mount a folder read-only here: {shlex.join(there)}")
    words = [*there, *command(*arguments)]
    run = subprocess.run(words, capture_output=True, text=True, check=False, env=environment())
    return Run(run.returncode, run.stdout, run.stderr)


def test_a_finished_study_is_finished_where_nothing_can_be_written(project: Path) -> None:
    """As elsewhere: the first line says where it stands, the last that there is nothing to do; exit 0."""
    run = read_only(project, "run", "study.yaml")
    assert run.code == 0, run.err
    first, last = run.err.splitlines()
    assert first.startswith("study tiny: 3 of 3 trials ended, finished; storage sqlite:///")
    assert last.startswith("nothing to do: 3 trials (3 complete")


@pytest.mark.parametrize("change", [("n_trials: 3", "n_trials: 4"), ("high: 1.0e-1", "high: 2.0e-1"), ("", "# new\n")])
def test_a_study_with_something_to_do_is_refused_there(change: tuple[str, str], finished: Path, tmp_path: Path) -> None:
    """More trials, or a change that would be recorded; a comment is neither."""
    folder = shutil.copytree(finished, tmp_path / "project")
    old, new = change
    (folder / "study.yaml").write_text(STUDY.replace(old, new) if old else STUDY + new)
    (folder / "tiny.db").chmod(0o444)
    run = read_only(folder, "run", "study.yaml")
    assert run.code == (2 if old else 0), run.err
    assert ("cannot be written" in run.err) == bool(old)


def test_everything_can_be_looked_at_there(project: Path, tmp_path: Path) -> None:
    """Status, trials, logs, checkpoints, and export to another disk; what writes is refused."""
    for words in ("show 1", "best", "logs 1", "checkpoints list", "checkpoints show 1", "checkpoints verify"):
        run = read_only(project, *words.split())
        assert run.code == 0, (words, run.err)
    run = read_only(project, "export", "study.yaml", "-o", tmp_path / "out")
    assert run.code == 0, run.err
    assert (tmp_path / "out" / "model.safetensors").exists()
    assert json.loads(read_only(project, "status", "--json").out)["finished"]
    refused = read_only(project, "checkpoints", "prune")
    assert refused.code == 2
    assert "cannot be written. Nothing was changed." in refused.err
