"""``tunesafe restore``: what it brings back, what it adapts, and what it refuses."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests import gcs_server, s3
from tests.integration.cli_project import STUDY, TRAIN, tunesafe, tunesafe_here, write_project
from tunesafe.api import restoring
from tunesafe.errors import StorageError
from tunesafe.spec import load_spec
from tunesafe.store.backup_state import backups_beside
from tunesafe.store.backups import POINTER
from tunesafe.store.depot_urls import open_depot
from tunesafe.store.depots import ConflictError, Depot, DepotError
from tunesafe.store.engine import open_engine, reading
from tunesafe.store.folders import FolderDepot
from tunesafe.store.studies import find_study
from tunesafe.study.copying import Copier

pytestmark = pytest.mark.timeout(600)


def copied(folder: Path, place: str, study: str = STUDY) -> Path:
    """The second place of a study that has run to its end; what is left of its machine is the place."""
    file = write_project(folder, f"{study}backup: {place}  # a second place\n")
    run = tunesafe_here("run", file, cwd=folder)
    assert run.code == 0, run.err
    return file


def test_a_finished_study_is_brought_back_whole(tmp_path: Path) -> None:
    """Results, code and weights; it has nothing to do, and is copied on."""
    old = copied(tmp_path / "old", str(tmp_path / "place"))
    run = tunesafe("restore", tmp_path / "place", "new", cwd=tmp_path)
    assert run.code == 0, run.err
    assert "restored study 'tiny'" in run.err
    assert "to continue it: tunesafe run new/study.yaml" in run.err
    new = tmp_path / "new" / "study.yaml"
    assert new.read_text() == old.read_text()
    assert (tmp_path / "new" / "train.py").read_text() == (tmp_path / "old" / "train.py").read_text()
    before, after = (json.loads(tunesafe_here("status", file, "--json", cwd=tmp_path).out) for file in (old, new))
    assert after["best"] == before["best"]
    assert after["trials"] == before["trials"]
    again = tunesafe("run", new, cwd=tmp_path)
    assert (again.code, again.err.splitlines()[-1][:13]) == (0, "nothing to do")
    for file, folder in ((old, "a"), (new, "b")):
        assert tunesafe_here("export", file, "-o", folder, cwd=tmp_path).code == 0
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()
    status = tunesafe_here("status", new, cwd=tmp_path).out
    assert "newest copy" in status
    assert "1 times it was brought back from its second place" in status


def test_a_lease_of_the_lost_machine_is_over(tmp_path: Path) -> None:
    """Nobody here can prove a process of another machine dead; it is not waited for."""
    old = copied(tmp_path / "old", "../place")
    elsewhere = '{"host": "elsewhere", "machine_id": "m", "boot_id": "b", "pid_namespace": "n", "pid": 1, "started": 1}'
    with closing(sqlite3.connect(old.parent / "tiny.db")) as database, database:
        change = "UPDATE tunesafe_trials SET phase = 'claimed', lease_expires_at = 9e9, owner_json = ? WHERE number = 2"
        database.execute(change, (elsewhere,))
    spec = load_spec(old)
    engine = open_engine(spec.storage)
    with reading(engine) as connection:
        row = find_study(connection, "tiny")
    assert row is not None
    folder = backups_beside(engine.url, row.uuid)
    assert folder is not None
    with Copier(engine, row, open_depot(f"file://{tmp_path}/place"), folder) as copier:
        assert copier.take()
        copier.copy()
    engine.dispose()
    for study, trials in ((old, {"running": 1}), (tmp_path / "new" / "study.yaml", {"interrupted": 1})):
        if study != old:
            assert tunesafe("restore", "place", "new", cwd=tmp_path).code == 0
        found = json.loads(tunesafe("status", study, "--json", cwd=tmp_path).out)["trials"]
        assert trials.items() <= found.items()


def test_places_that_have_changed_are_adapted_in_the_study_file(tmp_path: Path) -> None:
    """A database elsewhere on the old machine, and a second place relative to the old folder; the rest as written."""
    elsewhere = tmp_path / "disk"
    elsewhere.mkdir()
    study = STUDY.replace("seed: 1\n", f"seed: 1  # mine\nstorage: 'sqlite:///{elsewhere}/x.db'  # there\n")
    old = copied(tmp_path / "old", "../place", study)
    run = tunesafe("restore", "place", "deep/new", cwd=tmp_path)
    assert run.code == 0, run.err
    new = tmp_path / "deep" / "new" / "study.yaml"
    expected = old.read_text().replace(f"'sqlite:///{elsewhere}/x.db'", '"sqlite:///x.db"')
    assert new.read_text() == expected.replace("../place", f'"file://{tmp_path}/place"')
    again = tunesafe_here("run", new, cwd=tmp_path)
    assert again.code == 0, again.err
    assert f"storage sqlite:///{tmp_path}/deep/new/x.db" in again.err


def test_a_database_in_a_folder_of_its_own_is_brought_back_there(tmp_path: Path) -> None:
    """Relative to the study file, as it was."""
    (tmp_path / "old" / "data").mkdir(parents=True)
    copied(tmp_path / "old", str(tmp_path / "place"), STUDY + "storage: sqlite:///data/x.db\n")
    assert tunesafe("restore", "place", "new", cwd=tmp_path).code == 0
    assert (tmp_path / "new" / "data" / "x.db").exists()
    assert tunesafe_here("run", "new/study.yaml", cwd=tmp_path).code == 0


def test_what_cannot_be_restored_is_one_message_and_changes_nothing(tmp_path: Path) -> None:
    """A folder with something in it, a place without a backup, a place that is none, a damaged database."""
    copied(tmp_path / "old", str(tmp_path / "place"))
    before = (tmp_path / "place" / POINTER).read_bytes()
    for url, folder, code, words in (
        ("place", "old", 2, "is not an empty folder"),
        ("old", "new", 3, "There is no backup in"),
        ("none/such", "new", 3, "There is no backup in"),
        ("ftp://host/place", "new", 2, "is not a place tunesafe can copy to"),
        ("place", "old/study.yaml/new", 2, "cannot be used"),
    ):
        run = tunesafe("restore", url, folder, cwd=tmp_path)
        assert (run.code, words in run.err) == (code, True), run.err
        assert not (tmp_path / "new").exists()
    assert (tmp_path / "place" / POINTER).read_bytes() == before
    (database,) = (tmp_path / "place" / "databases").iterdir()
    content = bytearray(database.read_bytes())
    content[len(content) // 2] ^= 1
    database.write_bytes(content)
    run = tunesafe("restore", "place", "new", cwd=tmp_path)
    assert run.code == 4
    assert "is not what was written" in run.err
    assert list((tmp_path / "new").iterdir()) == []
    assert json.loads((tmp_path / "place" / POINTER).read_bytes())["owner"] == json.loads(before)["owner"]


def test_a_place_that_cannot_be_fetched_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk here: the machine it came from, if it is alive, copies on; unless another has the place by now."""
    copied(tmp_path / "old", str(tmp_path / "place"))
    pointer = tmp_path / "place" / POINTER
    before = json.loads(pointer.read_bytes())
    seen: list[str] = []

    def full(depot: Depot, *rest: object) -> None:
        seen.append(json.loads(pointer.read_bytes())["owner"])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(restoring, "_fetch", full)
    with pytest.raises(StorageError, match=r"No space left.*unharmed"):
        restoring.restore(str(tmp_path / "place"), tmp_path / "new")
    after = json.loads(pointer.read_bytes())
    assert seen != [before["owner"]]
    assert after.pop("generation") == before.pop("generation") + 2
    assert after == before
    assert list((tmp_path / "new").iterdir()) == []

    def full_and_taken(depot: Depot, *rest: object) -> None:
        pointer.write_text(json.dumps({**before, "generation": 9, "owner": "another"}))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(restoring, "_fetch", full_and_taken)
    with pytest.raises(StorageError):
        restoring.restore(str(tmp_path / "place"), tmp_path / "new")
    assert json.loads(pointer.read_bytes())["owner"] == "another"


@pytest.mark.parametrize("unheard", [1, 2])
def test_a_place_is_given_back_though_an_answer_was_lost(
    unheard: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the claim itself, or of giving back: what was written is looked for."""
    copied(tmp_path / "old", str(tmp_path / "place"))
    before = json.loads((tmp_path / "place" / POINTER).read_bytes())
    put, puts, said = FolderDepot.replace, list[object](), list[str]()

    def put_without_answer(self: FolderDepot, name: str, content: bytes, version: object | None) -> None:
        put(self, name, content, version)
        puts.append(version)
        if len(puts) == unheard:
            raise DepotError("no answer") if unheard == 1 else ConflictError("the library's second try")

    def full(*anything: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(FolderDepot, "replace", put_without_answer)
    monkeypatch.setattr(restoring, "_fetch", full)
    with pytest.raises(StorageError):
        restoring.restore(str(tmp_path / "place"), tmp_path / "new", said.append)
    assert len(puts) == 2
    assert json.loads((tmp_path / "place" / POINTER).read_bytes())["owner"] == before["owner"]
    assert not [line for line in said if "could not be given back" in line]


def test_a_restore_that_ends_in_its_last_clean_up_is_ended_by_the_same_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever of its own folder is gone by then."""
    copied(tmp_path / "old", str(tmp_path / "place"))
    remove = shutil.rmtree

    def remove_some(folder: Path, ignore_errors: bool = False) -> None:
        if folder.exists():
            remove(folder / "contents")
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", remove_some)
        with pytest.raises(KeyboardInterrupt):
            restoring.restore(str(tmp_path / "place"), tmp_path / "new")
    restored = restoring.restore(str(tmp_path / "place"), tmp_path / "new")
    assert restored.study_file.exists()
    assert list((tmp_path / "new").glob(".*")) == []


def test_a_fresh_start_where_a_backup_lies_is_refused(tmp_path: Path) -> None:
    """On a new machine somebody runs the study file instead of restoring it: nothing is begun, and it is said how."""
    file = copied(tmp_path / "old", str(tmp_path / "place"))
    fresh = write_project(tmp_path / "fresh", file.read_text())
    run = tunesafe("run", fresh, cwd=tmp_path)
    assert run.code == 2
    assert "tunesafe restore" in run.err
    assert sorted(path.name for path in fresh.parent.iterdir()) == ["study.yaml", "train.py"]


def test_a_server_is_for_its_own_backup(tmp_path: Path) -> None:
    """Exit 2 with the advice, also from check; no connection is tried."""
    url = "postgresql://me:hush@127.0.0.1:9/nothing"
    file = write_project(tmp_path, f"{STUDY}storage: {url}\nbackup: place\n")
    for command in ("check", "run"):
        run = tunesafe(command, file, cwd=tmp_path)
        assert run.code == 2
        assert "use the server's own backup" in run.err
        assert "hush" not in run.err


@pytest.fixture(params=[pytest.param("s3", marks=pytest.mark.s3), "gcs"])
def object_store(request: pytest.FixtureRequest) -> str:
    """URL of an empty prefix in an object store of every kind in turn."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


def test_an_object_store_brings_a_study_back(tmp_path: Path, object_store: str) -> None:
    """As a folder does, and it goes on as if it had never been away; a key is shown nowhere."""
    copied(tmp_path / "old", object_store, STUDY.replace("n_trials: 3", "n_trials: 2"))
    run = tunesafe("restore", object_store, "new", cwd=tmp_path)
    assert run.code == 0, run.err
    again = tunesafe_here("run", "new/study.yaml", "--set", "n_trials=3", cwd=tmp_path)
    assert again.code == 0, again.err
    # That the last copy takes its time may be said, where the machine is busy.
    assert "backup_" not in re.sub(".*backup_awaited.*", "", again.err)
    status = tunesafe("status", "new/study.yaml", cwd=tmp_path).out
    assert f"backup  {object_store}: newest copy" in status
    assert not [secret for secret in (s3.SECRET, gcs_server.SECRET) if secret in run.err + again.err + status]
    alone = write_project(tmp_path / "alone", STUDY)
    assert tunesafe_here("run", alone, cwd=tmp_path).code == 0
    for number in (1, 2):  # one that was brought back, and the one that came after
        for file, folder in (("new/study.yaml", f"a{number}"), (alone, f"b{number}")):
            exported = tunesafe_here("export", file, "--trial", str(number), "-o", folder, cwd=tmp_path)
            assert exported.code == 0, exported.err
        weights = [(tmp_path / f"{each}{number}/model.safetensors").read_bytes() for each in "ab"]
        assert weights[0] == weights[1]


def test_an_object_store_that_is_away_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The study runs to its end; the failure is an event without a key in it."""
    objects = pytest.importorskip("tunesafe.store.objects")
    monkeypatch.setattr(objects, "_PAUSE_SECONDS", 0.01)  # it fails before the study's patience with it is over
    for name, value in (("ACCESS_KEY_ID", "tester"), ("SECRET_ACCESS_KEY", s3.SECRET), ("REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    file = write_project(tmp_path, f"{STUDY}backup: s3://bucket/x\nstorage_timeout: 1\n")
    run = tunesafe_here("run", file, cwd=tmp_path)
    assert run.code == 0, run.err
    assert "event backup_failed" in run.err
    assert "event backup_unfinished" in run.err
    status = tunesafe_here("status", file, cwd=tmp_path).out
    assert "nothing copied yet; fails since" in status
    assert s3.SECRET not in run.err + status


def test_a_missing_library_is_named_before_anything_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 2, and the extra that brings it."""
    (tmp_path / "shadow").mkdir()
    (tmp_path / "shadow" / "obstore.py").write_text("raise ModuleNotFoundError('obstore')\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'shadow'}:{os.environ.get('PYTHONPATH', '')}")
    file = write_project(tmp_path / "project", f"{STUDY}backup: s3://bucket/x\n")
    run = tunesafe("run", file, cwd=tmp_path)
    assert run.code == 2
    assert "tunesafe[backup]" in run.err
    assert not (tmp_path / "project" / "tiny.db").exists()


def test_large_states_may_be_elsewhere(tmp_path: Path, object_store: str) -> None:
    """In an object store: the folder holds a small database and no packs; what is exported is what was trained."""
    large = "model=model, large={'zeros': torch.full((500_000,), float(trial.number))})"
    train = TRAIN.replace("model=model)", large)
    file = write_project(tmp_path, f"{STUDY}blobs: {object_store}\n", train)
    run = tunesafe_here("run", file, cwd=tmp_path)
    assert run.code == 0, run.err
    assert not (tmp_path / "tiny.db.packs").exists()
    assert (tmp_path / "tiny.db").stat().st_size < 1_000_000
    verified = tunesafe_here("checkpoints", "verify", file, cwd=tmp_path)
    assert (verified.code, "intact" in verified.err) == (0, True)
    listed = json.loads(tunesafe_here("checkpoints", "list", file, "--json", cwd=tmp_path).out)
    assert listed["checkpoints"]
    assert listed["checkpoints"][0]["bytes"] > 2_000_000
    assert listed["blobs"] == object_store
    page = tunesafe_here("checkpoints", "list", file, cwd=tmp_path).out
    assert f" at {object_store}" in page
    assert "beside" not in page
    assert f"large checkpoints at {object_store}" in tunesafe_here("status", file, cwd=tmp_path).out


def test_a_place_for_large_states_that_cannot_be_used_is_known_at_the_start(tmp_path: Path) -> None:
    """Exit 3, and nothing is begun."""
    file = write_project(tmp_path / "project", f"{STUDY}blobs: /no/such/disk\n")
    run = tunesafe("run", file, cwd=tmp_path)
    assert run.code == 3
    assert "is its disk there" in run.err
    assert not (tmp_path / "project" / "tiny.db").exists()
