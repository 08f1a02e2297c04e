"""Bad input, typed at the command line: exit 2, one message, and nothing was created."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.cli_project import STUDY, TRAIN, write_project
from tunesafe.cli import main


def with_line(old: str, new: str) -> str:
    """The tiny study with one line replaced."""
    assert old in STUDY
    return STUDY.replace(old, new)


LR = "lr: {type: float, low: 1.0e-3, high: 1.0e-1, log: true}"
SIZES = "batch_size: {type: categorical, choices: [8, 16]}"
ALIAS_BOMB = "\n".join(
    ["a: &a [x, x, x, x, x, x, x, x, x]"]
    + [
        f"{name}: &{name} [{', '.join(f'*{before}' for _ in range(9))}]"
        for before, name in zip("abcdef", "bcdefg", strict=True)
    ]
)
STUDIES = {
    "wrong type": (with_line("n_trials: 3", "n_trials: three"), "study.yaml:8:"),
    "unknown key": (with_line("n_trials: 3", "n_trails: 3"), "did you mean 'n_trials'"),
    "reversed bounds": (with_line(LR, "lr: {type: float, low: 1.0, high: 0.1}"), "study.yaml:6:"),
    "log of zero": (with_line(LR, "lr: {type: float, low: 0.0, high: 0.1, log: true}"), "study.yaml:6:"),
    "condition on nothing": (
        with_line(LR, "lr: {type: float, low: 0.1, high: 1.0, when: {optimiser: sgd}}"),
        "optimiser",
    ),
    "conditions in a circle": (
        with_line(
            LR,
            "a: {type: int, low: 0, high: 1, when: {b: 1}}\n  b: {type: int, low: 0, high: 1, when: {a: 1}}",
        ),
        "circle",
    ),
    "batch size 0": (with_line(SIZES, "batch_size: 0"), "batch_size"),
    "searched batch size 0": (with_line(SIZES, "batch_size: {type: int, low: 0, high: 8}"), "batch_size"),
    "negative budget": (with_line("examples: 64", "examples: -64"), "study.yaml:4:"),
    "more virtual epochs than examples": (with_line("virtual_epochs: 2", "virtual_epochs: 65"), "65"),
    "no such file of code": (with_line("train.py:train", "trian.py:train"), "did you mean 'train.py'"),
    "no such function": (with_line("train.py:train", "train.py:trian"), "did you mean 'train'"),
    "no such module": (with_line("train.py:train", "nowhere_at_all.train:train"), "nowhere_at_all"),
    "unknown sampler": (with_line("seed: 1", "sampler: {name: tpee}"), "tpe"),
    "unknown sampler option": (with_line("seed: 1", "sampler: {name: tpe, n_startup: 3}"), "n_startup"),
    "unknown pruner option": (with_line("{name: nop}", "{name: median, n_warmup: 3}"), "n_warmup"),
    "a tab": (with_line("  " + LR, "\t" + LR), "tab"),
    "a syntax error": (with_line("n_trials: 3", "n_trials: [3"), "study.yaml:"),
    "a duplicate key": (STUDY + "seed: 2\n", "twice"),
    "a file of 10 MB": (STUDY + "#" * 10_000_000, "bytes"),
    "an alias bomb": (ALIAS_BOMB, "alias"),
    "a Python object": (with_line("n_trials: 3", "n_trials: !!python/object/apply:os.getcwd []"), "python/object"),
    "an empty file": ("", "empty"),
    "not a database": (STUDY + "storage: https://example.org/tiny\n", "database"),
    "a database in a folder that is not there": (STUDY + "storage: sqlite:///nowhere/tiny.db\n", "nowhere"),
    "a place where root cannot write either": (STUDY + "storage: sqlite:////proc/tiny.db\n", "no file can be made"),
    "a folder as database": (STUDY + "storage: sqlite:///.\n", "folder"),
}
PROGRAMS = {
    "syntax error": (TRAIN.replace("def train(trial):", "def train(trial:"), "train.py:5:"),
    "missing import": ("import not_a_module_at_all\n" + TRAIN, "train.py:1: No module named"),
    "error on import": (TRAIN + "\n1 / 0\n", "ZeroDivisionError"),
    "not a function": (TRAIN + "\ntrain = 3\n", "int"),
}


def files(folder: Path) -> set[str]:
    """What a folder holds, without byte code of user code and SQLite's own files beside a database."""
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if "__pycache__" not in path.parts and not path.name.endswith(("-wal", "-shm"))
    }


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Type a command; it must end with exit 2, one message, and nothing created. Gives the message."""
    monkeypatch.chdir(tmp_path)

    def check(*arguments: str) -> str:
        before = files(tmp_path)
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        printed = capsys.readouterr()
        assert ended.value.code == 2, printed.err
        assert "Traceback" not in printed.err
        assert printed.err.strip()
        assert printed.out == ""
        assert files(tmp_path) == before
        return printed.err

    return check


@pytest.mark.parametrize("command", ["check", "run"])
@pytest.mark.parametrize(("text", "fragment"), STUDIES.values(), ids=STUDIES)
def test_a_bad_study_file_is_refused(
    text: str, fragment: str, command: str, tmp_path: Path, refused: Callable[..., str]
) -> None:
    """Every fault of issue 2: before anything is started, by ``check`` and by ``run``."""
    write_project(tmp_path, study=text)
    assert fragment in refused(command, "study.yaml")


@pytest.mark.parametrize("command", ["check", "run"])
@pytest.mark.parametrize(("text", "fragment"), PROGRAMS.values(), ids=PROGRAMS)
def test_a_bad_trainable_is_refused(
    text: str, fragment: str, command: str, tmp_path: Path, refused: Callable[..., str]
) -> None:
    """Code that cannot be imported leaves no study behind, and the place of the fault is named."""
    write_project(tmp_path, train=text)
    assert fragment in refused(command, "study.yaml")


@pytest.mark.parametrize("command", ["check", "run", "status", "best", "export"])
def test_a_missing_study_file_is_refused(command: str, tmp_path: Path, refused: Callable[..., str]) -> None:
    """With the name of the nearest file there is."""
    write_project(tmp_path)
    output = ["-o", "out"] if command == "export" else []
    assert "did you mean 'study.yaml'" in refused(command, "studi.yaml", *output)


@pytest.mark.parametrize(
    ("settings", "fragment"),
    [
        (["--set", "n_trails=3"], "--set n_trails=3"),
        (["--set", "budget.virtual_epochs=0"], "virtual_epochs"),
        (["--set", "n_trials"], "key.path=value"),
        (["-w", "0"], "n_workers"),
        (["-w", "two"], "--workers"),
    ],
)
def test_a_bad_override_is_refused(
    settings: list[str], fragment: str, tmp_path: Path, refused: Callable[..., str]
) -> None:
    """The argument is named as it was typed."""
    write_project(tmp_path)
    assert fragment in refused("run", "study.yaml", *settings)


def test_a_file_that_is_no_database_is_refused_and_kept(tmp_path: Path, refused: Callable[..., str]) -> None:
    """Somebody's notes under the name of the database are not overwritten."""
    write_project(tmp_path)
    (tmp_path / "tiny.db").write_text("my notes")
    assert "not a SQLite database" in refused("run", "study.yaml")
    assert (tmp_path / "tiny.db").read_text() == "my notes"


def test_a_study_of_optunas_own_is_refused_and_kept(tmp_path: Path, refused: Callable[..., str]) -> None:
    """A study that tunesafe did not make is not touched, whatever its name."""
    import optuna

    write_project(tmp_path)
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'tiny.db'}")
    optuna.create_study(study_name="tiny", storage=storage)
    storage.engine.dispose()
    assert "tunesafe did not make" in refused("run", "study.yaml")
    with sqlite3.connect(tmp_path / "tiny.db") as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    connection.close()
    assert not [name for name in tables if name.startswith("tunesafe")]


@pytest.mark.parametrize("words", [[], ["study.yaml"], ["study.yaml", "x"], ["study.yaml", "-1"], ["a", "b", "3"]])
def test_show_wants_a_trial_number(words: list[str], tmp_path: Path, refused: Callable[..., str]) -> None:
    """And says how to give it."""
    write_project(tmp_path)
    refused("show", *words)


def test_unknown_commands_and_options_are_refused(refused: Callable[..., str]) -> None:
    """With the usage line."""
    assert "runn" in refused("runn")
    assert "--frobnicate" in refused("run", "study.yaml", "--frobnicate")
