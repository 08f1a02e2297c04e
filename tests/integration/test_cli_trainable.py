"""A trainable whose file is there and whose name is not: one message, at its place in the study file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.cli_project import STUDY, TRAIN, write_project
from tunesafe.cli import main

MISSPELT = STUDY.replace("train.py:train", "train.py:trian")


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line on standard error of a command that ends with exit 2."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    printed = capsys.readouterr()
    assert ended.value.code == 2, printed.err
    assert printed.out == ""
    return printed.err


@pytest.mark.parametrize(
    ("train", "fault"),
    [
        (TRAIN, "train.py: holds no 'trian'; did you mean 'train'? Nothing was started."),
        (
            TRAIN + "\ntrian = 3\n",
            "train.py: 'trian' is an int, not a function that takes a trial. Nothing was started.",
        ),
        (
            TRAIN + "\nclass trian: ...\n",
            "train.py: 'trian' is a class, but no tunesafe.Trainable. Derive it from tunesafe.Trainable, or name a "
            "function that takes a trial. Nothing was started.",
        ),
    ],
    ids=["nothing", "no function", "a class"],
)
@pytest.mark.parametrize("command", ["check", "run"])
def test_a_name_that_is_no_trainable_is_reported_where_it_stands(
    command: str,
    train: str,
    fault: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """File, line and column are those of the study file's ``trainable``; nothing is created."""
    write_project(tmp_path, study=MISSPELT, train=train)
    monkeypatch.chdir(tmp_path)
    assert refusal(capsys, command, "study.yaml") == f"study.yaml:2:12: {fault}\n"
    assert {path.name for path in tmp_path.iterdir()} <= {"study.yaml", "train.py", "__pycache__"}


def test_a_name_that_a_worker_misses_later_is_reported_in_the_same_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The study stopped over exceptions, and the fix renamed the function: a worker finds out, no trial is lost."""
    write_project(tmp_path, train=TRAIN.replace("    x = ", "    1 / 0\n    x = "))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["run", "study.yaml"])
    assert ended.value.code == 6, capsys.readouterr().err
    capsys.readouterr()
    (tmp_path / "train.py").write_text(TRAIN.replace("def train(", "def trian("))
    *_, last = refusal(capsys, "run", "study.yaml").splitlines()
    assert last == "study.yaml:2:12: train.py: holds no 'train'; did you mean 'trian'? Nothing was started."
    (tmp_path / "train.py").write_text(TRAIN)
    with pytest.raises(SystemExit) as ended:
        main(["run", "study.yaml"])
    assert ended.value.code == 0
    assert capsys.readouterr().err.splitlines()[-1].startswith("done: 3 trials (3 complete")
