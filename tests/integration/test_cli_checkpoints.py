"""``tunesafe checkpoints``: what is stored of states, listed, taken apart, verified and pruned."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.cli_project import Run, command, environment, tunesafe_here, write_project
from tunesafe.api import load_study
from tunesafe.cli import main

HEAVY = ("torch", "optuna", "sklearn", "joblib")
KEPT = ["checkpoint.keep.last=2", "checkpoint.keep.best=2"]
FLIP_A_BIT = "UPDATE tunesafe_blob_chunks SET data = CAST(X'01' || SUBSTR(data, 2) AS BLOB) WHERE blob_id = ?"
# The two tensors of the model, merged, each at a multiple of 64 bytes.
A_WEIGHT = """
SELECT blob_id FROM tunesafe_checkpoint_blobs JOIN tunesafe_checkpoints USING (checkpoint_id)
JOIN tunesafe_blobs USING (blob_id) WHERE number = ? AND virtual_epoch = 2 AND tunesafe_blobs.num_bytes = 128
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny study, run to its end with both checkpoints of every trial kept."""
    folder = tmp_path_factory.mktemp("finished")
    write_project(folder)
    run = tunesafe_here("run", "study.yaml", "--set", KEPT[0], "--set", KEPT[1], cwd=folder)
    assert run.code == 0, run.err
    return folder


@pytest.fixture
def project(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, as working directory."""
    folder = shutil.copytree(finished, tmp_path / "project")
    monkeypatch.chdir(folder)
    return folder


def ran(capsys: pytest.CaptureFixture[str], *arguments: str) -> Run:
    """Run a command in this process."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    printed = capsys.readouterr()
    return Run(int(ended.value.code or 0), printed.out, printed.err)


def document(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> dict[str, Any]:
    """What a command prints as JSON; it must end with the given code."""
    run = ran(capsys, "checkpoints", *arguments, "--json")
    assert run.code == code, run.err
    found: dict[str, Any] = json.loads(run.out)
    return found


def execute(project: Path, statement: str, *values: object) -> list[Any]:
    """Change the database behind tunesafe's back, or ask it."""
    connection = sqlite3.connect(project / "tiny.db")
    try:
        with connection:
            return connection.execute(statement, values).fetchall()
    finally:
        connection.close()


def positions(found: list[dict[str, Any]]) -> list[tuple[int, int]]:
    """Trial and virtual epoch of listed checkpoints."""
    return [(checkpoint["number"], checkpoint["virtual_epoch"]) for checkpoint in found]


@pytest.mark.parametrize(
    ("words", "keys", "inner", "names"),
    [
        ("list study.yaml", "study checkpoints bytes stored blobs", "checkpoints",
         "number virtual_epoch examples_seen bytes own_bytes created selected weights_only"),
        ("show study.yaml 1",
         "number virtual_epoch examples_seen bytes own_bytes created selected weights_only structure tensors",
         "tensors", "path dtype shape bytes hash"),
        ("verify study.yaml", "study intact damaged checkpoints", "checkpoints",
         "number virtual_epoch examples_seen bytes damage weights_only"),
        ("prune study.yaml --dry-run", "study dry_run removed freed thinned blobs", "removed",
         "number virtual_epoch examples_seen bytes own_bytes created selected weights_only"),
    ],
)  # fmt: skip
def test_keys_of_json_are_stable(
    words: str, keys: str, inner: str, names: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The ratchet: scripts rely on them; add here what is added, remove nothing."""
    lower_keep(capsys)
    found = document(capsys, *words.split())
    assert " ".join(found) == keys
    assert " ".join(found[inner][0]) == names


def lower_keep(capsys: pytest.CaptureFixture[str]) -> None:
    """Ask for one checkpoint of every trial from now on, as a user does: the study file says so, and run takes it."""
    run = ran(capsys, "run", "study.yaml")
    assert run.code == 0, run.err


def test_the_list_names_every_checkpoint_and_adds_up(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The newest of a trial first, the selected one marked, one trial by itself, the totals the database's own."""
    found = document(capsys, "list", "study.yaml")
    assert positions(found["checkpoints"]) == [(0, 2), (0, 1), (1, 2), (1, 1), (2, 2), (2, 1)]
    assert [checkpoint["selected"] for checkpoint in found["checkpoints"]] == [True, False] * 3
    assert found["bytes"] == sum(checkpoint["bytes"] for checkpoint in found["checkpoints"])
    ((stored, chunks),) = execute(
        project, "SELECT SUM(num_bytes), (SELECT SUM(LENGTH(data)) FROM tunesafe_blob_chunks) FROM tunesafe_blobs"
    )
    assert found["stored"] == {"in_database": stored, "in_packs": 0}
    assert stored == chunks
    own = sum(checkpoint["own_bytes"] for checkpoint in found["checkpoints"])
    assert 0 < own <= stored <= found["bytes"]
    one = document(capsys, "list", f"sqlite:///{project}/tiny.db#tiny", "--trial", "1")
    assert one["checkpoints"] == found["checkpoints"][2:4]
    page = ran(capsys, "checkpoints", "list").out
    assert page.count("selected") == 3
    assert "6 states of" in page
    assert ran(capsys, "checkpoints", "list", "--trial", "7").code == 2


def test_a_checkpoint_is_shown_tensor_by_tensor(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The newest by default; sizes add up to the state's, and equal bytes have one name."""
    found = document(capsys, "show", "study.yaml", "1")
    assert (found["number"], found["virtual_epoch"], found["examples_seen"]) == (1, 2, 64)
    tensors = {tensor["path"]: tensor for tensor in found["tensors"]}
    weight = tensors["model/weight"]
    assert (weight["dtype"], weight["shape"], weight["bytes"]) == ("float32", [1, 1], 4)
    assert found["bytes"] == found["structure"]["bytes"] + sum(tensor["bytes"] for tensor in found["tensors"])
    stored = {name for (name,) in execute(project, "SELECT hash FROM tunesafe_blobs")}
    assert found["structure"]["hash"] in stored
    earlier = document(capsys, "show", "1", "--virtual-epoch", "1")
    assert (earlier["virtual_epoch"], earlier["selected"]) == (1, False)
    page = ran(capsys, "checkpoints", "show", "1").out
    assert "trial 1  virtual epoch 2  at example 64  selected" in page
    assert weight["hash"] in page


def test_a_checkpoint_that_is_not_there_is_a_message(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With those that are."""
    missing = ran(capsys, "checkpoints", "show", "1", "--virtual-epoch", "3")
    assert missing.code == 2
    assert "It has those of virtual epoch 1, 2." in missing.err
    execute(project, "DELETE FROM tunesafe_checkpoints WHERE number = 1")
    assert "Trial 1 has no checkpoint." in ran(capsys, "checkpoints", "show", "1").err
    execute(project, "DELETE FROM tunesafe_checkpoints")
    assert document(capsys, "list")["checkpoints"] == []
    assert ran(capsys, "checkpoints", "verify").code == 0


def test_verify_finds_the_one_flipped_bit_and_changes_nothing(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 4, the sentence of the error for that checkpoint, and all others intact."""
    intact = ran(capsys, "checkpoints", "verify", "study.yaml")
    assert (intact.code, intact.out.count("is intact.")) == (0, 6)
    (blob_id,) = execute(project, A_WEIGHT, 1)[0]
    execute(project, FLIP_A_BIT, blob_id)
    before = (project / "tiny.db").read_bytes()
    run = ran(capsys, "checkpoints", "verify", "study.yaml")
    assert run.code == 4
    (line,) = [line for line in run.out.splitlines() if "is intact." not in line]
    assert line.startswith("Checkpoint of trial 1 at example 64 is damaged: tensor 'model/")
    assert run.err.startswith("1 of 6 checkpoints of study 'tiny' is damaged.")
    found = document(capsys, "verify", "study.yaml", code=4)
    assert (found["intact"], found["damaged"]) == (5, 1)
    (damaged,) = [checkpoint for checkpoint in found["checkpoints"] if checkpoint["damage"]]
    assert positions([damaged]) == [(1, 2)]
    assert ran(capsys, "checkpoints", "verify", "--trial", "0").code == 0
    assert (project / "tiny.db").read_bytes() == before


def test_a_damaged_manifest_is_not_shown(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a list says that does not match its hash may be anything."""
    execute(project, "UPDATE tunesafe_checkpoints SET manifest_json = REPLACE(manifest_json, 'weight', 'height')")
    run = ran(capsys, "checkpoints", "show", "1")
    assert run.code == 4
    assert run.out == ""
    assert "manifest no longer matches its hash" in run.err


def test_what_is_removed_while_others_are_verified_is_not_damaged(project: Path) -> None:
    """A study that runs on removes checkpoints all the time."""
    verified = load_study("study.yaml").verify_checkpoints()
    first = next(verified)
    execute(project, "DELETE FROM tunesafe_checkpoints WHERE number = 1")
    assert [(each.number, each.damage) for each in (first, *verified)] == [(0, None)] * 2 + [(2, None)] * 2


def test_prune_removes_what_nobody_asked_to_keep_and_nothing_the_second_time(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the rules the study last ran with; what it says it frees is what the database then holds less."""
    assert document(capsys, "prune", "study.yaml")["removed"] == []
    lower_keep(capsys)
    before = document(capsys, "list")
    promised = document(capsys, "prune", "--dry-run")
    assert document(capsys, "list") == before
    done = document(capsys, "prune", f"sqlite:///{project}/tiny.db#tiny")
    after = document(capsys, "list")
    assert positions(done["removed"]) == [(0, 1), (1, 1), (2, 1)]
    assert positions(after["checkpoints"]) == [(0, 2), (1, 2), (2, 2)]
    assert done == {**promised, "dry_run": False}
    assert done["freed"]["in_database"] == before["stored"]["in_database"] - after["stored"]["in_database"] > 0
    assert document(capsys, "verify")["intact"] == 3
    again = ran(capsys, "checkpoints", "prune")
    assert (again.code, again.out) == (0, "")
    assert again.err.startswith("nothing to remove")
    nothing = document(capsys, "prune")
    assert (nothing["removed"], nothing["freed"]) == ([], {"in_database": 0, "in_packs": 0})


def test_what_prune_removes_stands_among_the_events_of_its_trial(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever looks for a checkpoint finds out where it went."""
    lower_keep(capsys)
    document(capsys, "prune")
    run = ran(capsys, "show", "1", "--json")
    (event,) = [event for event in json.loads(run.out)["events"] if event["kind"] == "checkpoints_pruned"]
    assert (event["details"]["virtual_epochs"], event["details"]["weights_kept"]) == ([1], False)


def test_weights_alone_are_marked_counted_and_exported_bit_for_bit(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``finished: weights`` for trials that are over: by hand for those that have ended before."""
    ran(capsys, "export", "--trial", "1", "-o", "whole")
    ran(capsys, "run", "study.yaml", "--set", "checkpoint.keep.finished=weights", "--set", KEPT[0], "--set", KEPT[1])
    before = document(capsys, "list")
    assert len(document(capsys, "prune", "--dry-run")["thinned"]) == 6
    assert document(capsys, "list") == before
    done = document(capsys, "prune")
    assert (positions(done["thinned"]), done["removed"]) == (positions(before["checkpoints"]), [])
    after = document(capsys, "list")
    assert all(checkpoint["weights_only"] for checkpoint in after["checkpoints"])
    assert done["freed"]["in_database"] == before["stored"]["in_database"] - after["stored"]["in_database"] > 0
    assert {tensor["path"] for tensor in document(capsys, "show", "1")["tensors"]} == {"model/weight", "model/bias"}
    assert document(capsys, "verify")["intact"] == 6
    assert ran(capsys, "checkpoints", "verify").out.count("(weights only) is intact.") == 6
    assert ran(capsys, "checkpoints", "list").out.count("selected, weights only") == 3
    assert ran(capsys, "export", "--trial", "1", "-o", "thin").code == 0
    whole, thin = ((project / folder / "model.safetensors").read_bytes() for folder in ("whole", "thin"))
    assert whole == thin
    again = document(capsys, "prune")
    assert (again["removed"], again["thinned"], again["freed"]) == ([], [], {"in_database": 0, "in_packs": 0})


def test_prune_beside_a_live_trial_keeps_its_checkpoints(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Claimed, held or about to be closed: only trials that are over are looked at."""
    lower_keep(capsys)
    for number, phase in ((1, "claimed"), (2, "closing")):
        execute(project, "UPDATE tunesafe_trials SET phase = ? WHERE number = ?", phase, number)
    run = ran(capsys, "checkpoints", "prune")
    assert run.code == 0
    assert run.err.startswith("removed 1 checkpoint; freed ")
    assert positions(document(capsys, "list")["checkpoints"]) == [(0, 2), (1, 2), (1, 1), (2, 2), (2, 1)]


def test_a_study_that_is_pruned_all_the_time_ends_like_one_that_is_not(finished: Path, tmp_path: Path) -> None:
    """After every line its run says: each trial with the same reports, and every checkpoint that is kept intact."""
    write_project(tmp_path)
    study, removed = load_study(tmp_path / "study.yaml"), []
    words = command("run", "study.yaml")
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment()) as process:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            removed += study.prune_checkpoints().removed
        assert process.wait(100) == 0
    assert len(lines) > 6
    assert [trial.reports for trial in study.trials] == [t.reports for t in load_study(finished / "study.yaml").trials]
    assert [(each.number, each.virtual_epoch) for each in study.checkpoints().checkpoints] == [(0, 2), (1, 2), (2, 2)]
    assert [each.damage for each in study.verify_checkpoints()] == [None] * 3
    assert all(each.virtual_epoch == 1 for each in removed)


def test_prune_sweeps_what_killed_processes_left_behind(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Bytes without a name, once they are an hour old; a save in progress is younger than that."""
    make = "INSERT INTO tunesafe_blobs (study, hash, num_bytes, intact, created_at) SELECT uuid, ?, 5, 1, "
    for name, age in (("old", 3700), ("young", 10)):
        created = f"(julianday('now') - 2440587.5) * 86400.0 - {age} FROM tunesafe_studies"
        execute(project, make + created, name)
        chunk = "INSERT INTO tunesafe_blob_chunks SELECT blob_id, 0, X'0102030405' FROM tunesafe_blobs WHERE hash = ?"
        execute(project, chunk, name)
    promised = document(capsys, "prune", "--dry-run")
    assert promised["freed"] == {"in_database": 5, "in_packs": 0}
    assert document(capsys, "prune")["freed"] == promised["freed"]
    assert execute(project, "SELECT hash FROM tunesafe_blobs WHERE num_bytes = 5") == [("young",)]


@pytest.mark.parametrize("words", ["list study.yaml", "show study.yaml 0", "verify study.yaml"])
def test_reading_checkpoints_imports_neither_torch_nor_optuna(words: str, finished: Path) -> None:
    """They answer as fast as the database does."""
    program = (
        "import sys\nfrom tunesafe.cli import main\n"
        f"try: main({['checkpoints', *words.split()]!r})\nexcept SystemExit as end: assert not end.code, end.code\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=finished, check=False)
    assert run.stdout.splitlines()[-1:] == ["[]"], run.stderr


def test_nothing_is_created_where_no_study_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 3, also of the one that writes."""
    write_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    for words in ("list", "show 0", "verify", "prune", "prune --dry-run"):
        assert ran(capsys, "checkpoints", *words.split()).code == 3
    assert sorted(tmp_path.iterdir()) == before


def test_auto_makes_the_checkpoints_that_count_and_changes_no_result(finished: Path, tmp_path: Path) -> None:
    """How often depends on the time it takes here; the checkpoint a trial's value is of is always there."""
    write_project(tmp_path)
    assert tunesafe_here("run", "study.yaml", "--set", "checkpoint.every=auto", cwd=tmp_path).code == 0
    study, often = load_study(tmp_path / "study.yaml"), load_study(finished / "study.yaml")
    assert [trial.reports for trial in study.trials] == [trial.reports for trial in often.trials]
    assert [each.number for each in study.checkpoints().checkpoints if each.selected] == [0, 1, 2]
    assert [each.damage for each in study.verify_checkpoints()][:3] == [None] * 3
