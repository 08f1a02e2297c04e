"""Whose a second place is: one study's, one machine's, one process's; who is not meant writes and removes nothing."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text

from tests.unit.study.copies import LARGE, Bench, meddling
from tunesafe.errors import DamagedError, SpecError, StorageError
from tunesafe.store.backups import POINTER
from tunesafe.store.depots import DepotError
from tunesafe.store.engine import writing
from tunesafe.store.events import append_event
from tunesafe.store.folders import FolderDepot
from tunesafe.study.copying import OWNING, Copier, PlaceLostError, owner_token, owning_event, refuse_taken_place


def test_another_studys_place_is_not_touched(bench: Bench, tmp_path: Path) -> None:
    """Two studies cannot share one; the first keeps it."""
    before = bench.copy()
    (tmp_path / "other").mkdir()
    other = Bench(tmp_path / "other")
    other.depot = bench.depot
    with other.copier() as copier, pytest.raises(PlaceLostError, match="holds the backup of another study"):
        copier.copy()
    assert bench.pointer == before
    other.engine.dispose()


def test_who_was_restored_elsewhere_writes_nothing_any_more(bench: Bench) -> None:
    """Neither when it looks first, nor when the other one comes between its look and its put."""
    before = bench.copy()
    taken = replace(before, generation=9, owner="another", taken_by="new host")

    def take(name: str = "databases/") -> None:
        if name.startswith("databases/"):
            (bench.depot.path / POINTER).write_bytes(taken.to_bytes())

    bench.save(1, os.urandom(LARGE))
    meddling(bench, take)
    for _ in range(2):
        with bench.copier() as copier, pytest.raises(PlaceLostError, match="restored on new host"):
            copier.copy()
    assert bench.pointer == taken
    assert bench.depot.get(before.database.name) is not None


def test_what_a_lost_owner_has_sent_for_a_later_copy_is_not_taken_for_whole(bench: Bench, tmp_path: Path) -> None:
    """It died after it had sent less of a pack than the copy needs that counts, and that was restored."""
    cold, hot = os.urandom(LARGE), os.urandom(4 * LARGE)
    bench.save(1, cold, hot)
    before = bench.copy()
    shutil.copytree(tmp_path, tmp_path / "restored", ignore=shutil.ignore_patterns("restored", "place"))
    bench.save(2, cold, b"small")

    def die(name: str) -> None:
        raise DepotError("died here")

    meddling(bench, die)
    with bench.copier() as copier, pytest.raises(DepotError):
        copier.copy()
    assert len(bench.names("packs")) == 2
    (bench.depot.path / POINTER).write_bytes(replace(before, owner="b" * 32).to_bytes())
    bench.engine.dispose()
    bench.depot = FolderDepot(bench.depot.path)
    bench.open(tmp_path / "restored", bench.uuid)
    with writing(bench.engine) as connection:
        append_event(connection, bench.uuid, owning_event(bench.uuid, "place", "b" * 32))
    assert bench.copy().packs == before.packs
    assert bench.check_whole() == [cold, hot]


def test_a_put_whose_answer_was_lost_was_a_put(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library repeats it, and is told that somebody was first: it was itself."""
    replace_once = FolderDepot.replace

    def twice(self: FolderDepot, name: str, content: bytes, version: object | None) -> None:
        replace_once(self, name, content, version)
        replace_once(self, name, content, version)

    monkeypatch.setattr(FolderDepot, "replace", twice)
    assert bench.copy().generation == 1
    assert bench.check_whole() == []


def test_what_came_after_the_look_is_not_removed(bench: Bench) -> None:
    """A machine that was stopped in mid-copy must not remove what a later owner has written since."""
    bench.save(1, os.urandom(LARGE))
    bench.copy()
    later = f"packs/{'0' * 32}.5.bbbb"

    def write_as_the_later_owner(name: str) -> None:
        bench.depot.path.joinpath(later).write_bytes(b"later")

    bench.save(2, os.urandom(LARGE))
    meddling(bench, write_as_the_later_owner)
    bench.copy()
    assert later in bench.names("packs")
    bench.depot = FolderDepot(bench.depot.path)
    bench.save(3, b"small")
    bench.copy()
    assert bench.names("packs") == set()


def test_one_process_of_a_host_copies_at_a_time(bench: Bench) -> None:
    """The next one does when the first has ended."""
    with bench.copier():
        assert not Copier(bench.engine, bench.row, bench.depot, bench.beside).take()
    bench.copier().__exit__()


def test_what_is_no_pointer_is_left_alone(bench: Bench) -> None:
    """Somebody else's file, or that of a newer tunesafe."""
    bench.depot.put(POINTER, b"not ours")
    with bench.copier() as copier, pytest.raises(StorageError, match="not what a backup of tunesafe writes"):
        copier.copy()
    bench.depot.put(POINTER, b'{"format": 7}')
    with bench.copier() as copier, pytest.raises(StorageError, match="format 7"):
        copier.copy()
    assert bench.depot.get(POINTER) == b'{"format": 7}'


def test_the_token_of_a_study_is_made_once(bench: Bench) -> None:
    """It is in the database: whoever has that is the study."""
    tokens = {owner_token(bench.engine, bench.uuid, "place") for _ in range(3)}
    assert len(tokens) == 1


@pytest.mark.parametrize("damage", ["{}", "[]", "garbage", "a digit"])
def test_a_damaged_token_is_named_and_moves_nobody_out(bench: Bench, damage: str) -> None:
    """One changed digit would be another owner's, and the study would seem to go on elsewhere."""
    before = bench.copy()
    owner = before.owner
    other = owner[:-1] + ("0" if owner[-1] != "0" else "1")
    query = f"SET details_json = {'replace(details_json, :old, :new)' if damage == 'a digit' else ':new'}"
    values = {"old": owner, "new": other} if damage == "a digit" else {"new": damage}
    with writing(bench.engine) as connection:
        assert connection.execute(
            text(f"UPDATE tunesafe_events {query} WHERE kind = '{OWNING}'"),
            values,
        ).rowcount
    with bench.copier() as copier, pytest.raises(DamagedError, match="whose the second place is"):
        copier.copy()
    assert bench.pointer == before


def test_a_new_study_is_refused_where_another_ones_backup_is(bench: Bench) -> None:
    """A fresh start on a new machine must not be mistaken for a continuation."""
    from tests.unit.study.studies import spec_of

    spec = spec_of("sqlite:///new.db", backup=str(bench.depot.path))
    refuse_taken_place(spec)
    bench.copy()
    with pytest.raises(SpecError, match="tunesafe restore"):
        refuse_taken_place(spec)
    refuse_taken_place(spec_of("sqlite:///new.db"))
