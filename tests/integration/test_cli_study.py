"""A whole study at the command line: run, read, interrupted, continued, exported."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.integration.cli_project import (
    STUDY,
    TRAIN,
    Run,
    command,
    environment,
    tunesafe,
    tunesafe_here,
    write_project,
)
from tunesafe.api import load_study
from tunesafe.cli import main

HEAVY = ("torch", "optuna", "sklearn", "joblib")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    """A folder with the tiny study, run to its end once for all tests here, and what the run said."""
    folder = tmp_path_factory.mktemp("finished")
    write_project(folder)
    return folder, tunesafe("run", "study.yaml", cwd=folder)


@pytest.fixture
def project(finished: tuple[Path, Run], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The finished study's folder, as working directory."""
    monkeypatch.chdir(finished[0])
    return finished[0]


def ran(capsys: pytest.CaptureFixture[str], *arguments: str) -> Run:
    """Run a command in this process: importing torch anew takes longer than the study."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    printed = capsys.readouterr()
    return Run(int(ended.value.code or 0), printed.out, printed.err)


def said(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    """What a command prints to standard output; it must end with the given code."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    printed = capsys.readouterr()
    assert (ended.value.code or 0) == code, printed.err
    return printed.out


def test_a_run_tells_its_story_in_plain_lines(finished: tuple[Path, Run]) -> None:
    """First where the study stands and is stored, then one line per notice, last what ended; all on stderr."""
    folder, run = finished
    first, *lines, last = run.err.splitlines()
    assert run.code == 0
    assert run.out == ""
    assert first == f"study tiny: 0 of 3 trials ended, starting; storage sqlite:///{folder}/tiny.db"
    assert re.fullmatch(r"done: 3 trials .*; best is trial \d with loss [\d.e-]+", last)
    assert "trial 0 | hello from trial 0" in lines
    assert any(re.fullmatch(r"trial 2  virtual epoch 2/2  loss=[\d.e-]+", line) for line in lines)
    assert any(re.fullmatch(r"trial 1  complete  loss=[\d.e-]+", line) for line in lines)


def test_a_finished_study_has_nothing_to_do(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same command again changes nothing and ends with 0."""
    again = ran(capsys, "run", "study.yaml")
    assert again.code == 0
    assert "3 of 3 trials ended, finished" in again.err
    assert again.err.splitlines()[-1].startswith("nothing to do: 3 trials")


def test_status_counts_and_names_the_best(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In words, and as JSON with the documented keys."""
    page = said(capsys, "status", "study.yaml")
    assert "study tiny: 3 of 3 trials ended (3 complete)" in page
    document = json.loads(said(capsys, "status", "study.yaml", "--json"))
    assert document["finished"]
    assert document["trials"] == {
        "waiting": 0, "running": 0, "interrupted": 0, "held": 0, "complete": 3, "pruned": 0, "failed": 0,
    }  # fmt: skip
    assert document["total_examples"] == 64
    assert document["examples_seen"] == 3 * 64
    assert f"best trial {document['best']['number']} with loss" in page
    assert "3 of 3 trials ended" in said(capsys, "status", "study.yaml", "--watch")
    said(capsys, "status", "study.yaml", "--watch", "--json", code=2)


@pytest.mark.parametrize(
    "keys",
    [
        ("status", "study storage objective n_trials ended finished paused trials best active attempts resumed "
                   "examples_seen total_examples virtual_epochs live_seconds timeout_seconds notes events backup "
                   "blobs"),
        ("best", "number state value selected_virtual_epoch parameters reports result examples_seen attempts reason "
                 "traceback started ended worker events"),
        ("logs", "number attempts"),
        ("export", "study number state value virtual_epoch examples_seen directory files"),
        ("check", "name storage trainable objective n_trials searched conditional sampler pruner virtual_epochs "
                  "total_examples num_batches"),
    ],
)  # fmt: skip
def test_keys_of_json_are_stable(
    keys: tuple[str, str], project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The ratchet: scripts rely on them; add here what is added, remove nothing."""
    name, names = keys
    more = {"logs": ["1"], "export": ["-o", str(tmp_path / "out")]}.get(name, [])
    assert " ".join(json.loads(said(capsys, name, "study.yaml", *more, "--json"))) == names


def test_show_best_and_logs_agree(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One trial looks the same from every side, and the study's name may be left out or be its database."""
    best = json.loads(said(capsys, "best", "--json"))
    shown = json.loads(said(capsys, "show", f"sqlite:///{project}/tiny.db#tiny", str(best["number"]), "--json"))
    assert shown == best
    assert [report["virtual_epoch"] for report in best["reports"]] == [1, 2]
    assert best["value"] == best["reports"][-1]["metrics"]["loss"]
    page = said(capsys, "show", str(best["number"]))
    assert f"trial {best['number']}  complete  loss" in page
    assert f"lr = {best['parameters']['lr']}" in page
    assert said(capsys, "logs", "study.yaml", "1") == "hello from trial 1\n"


def test_reading_needs_no_user_code(
    finished: tuple[Path, Run],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A database copied to another machine is read there without the study file and the code."""
    shutil.copy(finished[0] / "tiny.db", tmp_path)
    monkeypatch.chdir(tmp_path)
    run = ran(capsys, "export", "sqlite:///tiny.db", "-o", "out")
    assert run.code == 0, run.err
    assert (tmp_path / "out" / "source" / "train.py").read_text() == TRAIN


@pytest.mark.parametrize("words", ["status study.yaml", "show study.yaml 0", "best study.yaml", "logs study.yaml 0"])
def test_reading_commands_import_neither_torch_nor_optuna(words: str, project: Path) -> None:
    """They answer as fast as the database does."""
    program = (
        "import sys\nfrom tunesafe.cli import main\n"
        f"try: main({words.split()!r})\nexcept SystemExit as end: assert not end.code, end.code\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=project, check=False)
    assert run.stdout.splitlines()[-1:] == ["[]"], run.stderr


def test_reading_leaves_no_file_behind(
    finished: tuple[Path, Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not even SQLite's own."""
    shutil.copy(finished[0] / "tiny.db", tmp_path)
    said(capsys, "status", f"sqlite:///{tmp_path}/tiny.db")
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.db"]


def test_reading_a_study_that_was_never_started_creates_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 3: there is no such storage yet."""
    write_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    for arguments in (["status"], ["best"], ["show", "0"], ["logs", "0"], ["export", "-o", "out"]):
        said(capsys, *arguments, code=3)
    assert sorted(tmp_path.iterdir()) == before


def test_best_of_a_study_without_a_complete_trial_says_so(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A study in the same database under a new name has none yet."""
    said(capsys, "status", f"sqlite:///{project}/tiny.db#other", code=3)
    write_project(tmp_path, study=STUDY, train=TRAIN.replace("loss=F", "loss=float('nan') * F"))
    assert tunesafe_here("run", "study.yaml", cwd=tmp_path).code == 1
    monkeypatch.chdir(tmp_path)
    said(capsys, "best", "study.yaml", code=1)
    document = json.loads(said(capsys, "show", "study.yaml", "0", "--json"))
    assert document["state"] == "pruned"
    assert document["reports"][0]["metrics"] == {"loss": "nan"}
    said(capsys, "export", "study.yaml", "-o", "out", code=1)


def test_export_gives_weights_that_torch_loads(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exported model, rebuilt without tunesafe, scores the exported value."""
    said(capsys, "export", "study.yaml", "-o", str(tmp_path / "out"))
    story = json.loads((tmp_path / "out" / "trial.json").read_text())
    model = torch.nn.Linear(1, 1)
    model.load_state_dict(load_file(tmp_path / "out" / "model.safetensors"))
    x = torch.arange(32.0).reshape(32, 1) / 32
    with torch.no_grad():
        assert torch.nn.functional.mse_loss(model(x), 2 * x).item() == story["value"]
    assert story["checkpoint"] == {"virtual_epoch": 2, "examples_seen": 64}
    assert (tmp_path / "out" / "source" / "train.py").read_text() == TRAIN
    said(capsys, "export", "study.yaml", "-o", str(tmp_path / "out"), code=2)


def test_export_names_the_checkpoints_that_are_kept(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Retention removed the first virtual epoch's; the error says what there is."""
    with pytest.raises(SystemExit) as ended:
        main(["export", "study.yaml", "--trial", "0", "--virtual-epoch", "1", "-o", "nowhere"])
    assert ended.value.code == 2
    assert "It has those of virtual epoch 2" in capsys.readouterr().err
    assert not (project / "nowhere").exists()


def test_export_of_damaged_weights_ends_with_4(
    finished: tuple[Path, Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One changed byte is found, nothing is written, and nothing stands in for what was asked for."""
    shutil.copy(finished[0] / "tiny.db", tmp_path)
    connection = sqlite3.connect(tmp_path / "tiny.db")
    connection.execute(
        "UPDATE tunesafe_blob_chunks SET data = CAST(X'01' || SUBSTR(data, 2) AS BLOB) WHERE LENGTH(data) = 128"
    )
    connection.commit()
    connection.close()
    run = ran(capsys, "export", f"sqlite:///{tmp_path}/tiny.db#tiny", "-o", str(tmp_path / "out"))
    assert run.code == 4, run.err
    assert "damaged" in run.err
    assert not (tmp_path / "out").exists()


UNTIL_ASKED = """\
        for inputs, targets in epoch:
            while trial.number == 1 and pathlib.Path("until asked").exists() and trial.signals.reason is None:
                time.sleep(0.01)
"""
"""Trial 1 waits until it is asked to leave, while there is such a file: else the study could be over before."""


def test_an_interrupted_run_ends_with_75_and_the_same_command_continues(
    tmp_path: Path,
    finished: tuple[Path, Run],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Ctrl-C in the middle, then the same command: the same best as the study that was never interrupted."""
    train = TRAIN.replace("        for inputs, targets in epoch:\n", UNTIL_ASKED)
    write_project(tmp_path, train=f"import pathlib, time\n{train}")
    (tmp_path / "until asked").touch()
    monkeypatch.chdir(tmp_path)
    words = command("run", "study.yaml")
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment()) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("trial 0  virtual epoch 1"):
                os.kill(process.pid, signal.SIGINT)
                break
        rest = process.stderr.read()
    assert process.returncode == 75, rest
    assert rest.splitlines()[-1].startswith("interrupted")
    (tmp_path / "until asked").unlink()
    again = ran(capsys, "run", "study.yaml")
    assert again.code == 0
    assert "of 3 trials ended, continuing" in again.err.splitlines()[0]
    assert again.err.splitlines()[-1] == finished[1].err.splitlines()[-1]


def test_a_run_that_nobody_listens_to_goes_on(tmp_path: Path) -> None:
    """``tunesafe run … 2>&1 | head -1``: the pipe closes, every trial completes, and the exit code is right."""
    write_project(tmp_path)
    words = command("run", "study.yaml")
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment()) as process:
        assert process.stderr is not None
        process.stderr.readline()
        process.stderr.close()
        assert process.wait(100) == 0
    states = [trial.state for trial in load_study(tmp_path / "study.yaml").trials]
    assert states == ["complete"] * 3


def test_a_changed_study_is_refused_until_accepted(
    finished: tuple[Path, Run],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exit 2 with the difference; ``--accept-changes`` goes on and says what changed."""
    monkeypatch.chdir(shutil.copytree(finished[0], tmp_path / "copy"))
    settings = ["--set", "seed=2", "--set", "n_trials=4"]
    refused = ran(capsys, "run", "study.yaml", *settings)
    assert refused.code == 2
    assert "seed" in refused.err
    assert "--accept-changes" in refused.err
    accepted = ran(capsys, "run", "study.yaml", *settings, "--accept-changes")
    assert accepted.code == 0, accepted.err
    assert "changed since the last run:" in accepted.err


def test_failing_code_ends_with_6_and_runs_after_the_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The traceback is shown, the trials keep their numbers, and complete once the cause is gone."""
    cause = tmp_path / "cause"
    lines = f"    import pathlib\n    assert not pathlib.Path({str(cause)!r}).read_text()\n    x = "
    write_project(tmp_path, train=TRAIN.replace("    x = ", lines))
    cause.write_text("there is one")
    monkeypatch.chdir(tmp_path)
    failing = ran(capsys, "run", "study.yaml")
    assert failing.code == 6, failing.err
    assert "AssertionError" in failing.err
    cause.write_text("")
    fixed = ran(capsys, "run", "study.yaml")
    assert fixed.code == 0, fixed.err
    assert fixed.err.splitlines()[-1].startswith("done: 3 trials (3 complete")


def test_init_writes_a_project_that_checks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``tunesafe init DIR && cd DIR && tunesafe check study.yaml``; a second init refuses to overwrite."""
    monkeypatch.chdir(tmp_path)
    said(capsys, "init", "project")
    monkeypatch.chdir(tmp_path / "project")
    assert "study digits is valid" in said(capsys, "check", "study.yaml")
    monkeypatch.chdir(tmp_path)
    said(capsys, "init", "project", code=2)


def test_a_project_of_init_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On real data, to the end (two trials of it); and as a script, without a study."""
    pytest.importorskip("sklearn")
    said(capsys, "init", str(tmp_path / "project"))
    monkeypatch.chdir(tmp_path / "project")
    run = tunesafe_here("run", "study.yaml", "--set", "n_trials=2", cwd=Path())
    assert run.code == 0, run.err
    runpy.run_path("train.py", run_name="__main__")
    assert len(capsys.readouterr().out.splitlines()) == 6
