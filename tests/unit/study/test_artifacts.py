"""Files kept with a trial, as optuna-dashboard and plain Optuna find them."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest
from optuna.artifacts import FileSystemArtifactStore, download_artifact, get_all_artifact_meta

from tests.unit.study.studies import Desk, opened
from tunesafe.errors import StorageError
from tunesafe.study.artifacts import store_artifact


def test_plain_optuna_lists_and_downloads_what_was_attached(sqlite_url: str, tmp_path: Path) -> None:
    """Under its name and type; attaching it again adds nothing, another file of that name does."""
    file = tmp_path / "figure.png"
    with opened(sqlite_url) as study:
        desk = Desk(study)
        desk.ledger._artifacts = tmp_path / "artifacts"
        claim = desk.claim()
        for text in ("first", "second", "second"):
            file.write_text(text)
            desk.ledger.attach(claim, file)
        trial = desk.plain().trials[0]
        metas = get_all_artifact_meta(trial, storage=desk.plain()._storage)
    store, texts = FileSystemArtifactStore(tmp_path / "artifacts"), set()
    for meta in metas:
        assert (meta.filename, meta.mimetype, meta.encoding) == ("figure.png", "image/png", None)
        copy = tmp_path / meta.artifact_id
        download_artifact(artifact_store=store, artifact_id=meta.artifact_id, file_path=str(copy))
        texts.add(copy.read_text())
    assert len(metas) == 2
    assert texts == {"first", "second"}


def test_ids_are_derived_from_trial_and_name(tmp_path: Path) -> None:
    """The same again after a crash, another for another trial, and of a form the dashboard takes."""
    file = tmp_path / "weights.tar.gz"
    file.write_bytes(b"\0" * 10)
    ids = [store_artifact(file, tmp_path / "kept", owner=owner).attribute for owner in ("a/0", "a/0", "a/1")]
    assert ids[0] == ids[1] != ids[2]
    assert all(re.fullmatch("artifacts:[0-9a-fA-F-]+", name) for name in ids)
    assert len(list((tmp_path / "kept").iterdir())) == 2


def test_a_file_that_cannot_be_read_leaves_nothing(tmp_path: Path) -> None:
    """No attribute names it, so no file may be there for it."""
    with pytest.raises(FileNotFoundError):
        store_artifact(tmp_path / "missing", tmp_path / "kept", owner="a/0")
    assert not (tmp_path / "kept").exists()


def test_a_full_disk_is_the_studys_trouble_not_the_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing half-written stays, and the error is one that ends the attempt, not the trial."""

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    file = tmp_path / "weights.bin"
    file.write_bytes(b"1")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"weights.bin could not be kept .*No space left.*\n?.*run the same"):
        store_artifact(file, tmp_path / "kept", owner="a/0")
    assert list((tmp_path / "kept").iterdir()) == []
