"""One copy to a second place: whole, incremental, fenced, and never in the way of those who work."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from tests.unit.store.samples import snapshot
from tests.unit.study.copies import LARGE, Bench, meddling
from tunesafe.store import backups
from tunesafe.store.depots import DepotError
from tunesafe.store.engine import open_engine, read_only_engine, reading, writing
from tunesafe.store.folders import FolderDepot
from tunesafe.store.packs import PackFolder


def test_a_copy_is_whole_and_the_next_one_brings_what_is_new(bench: Bench) -> None:
    """Packs go once; what no pointer names goes away; the generation grows."""
    assert bench.copy().generation == 1
    assert bench.check_whole() == []
    cold, hot = os.urandom(LARGE), os.urandom(LARGE)
    bench.save(1, cold, hot)
    first = bench.copy()
    assert bench.check_whole() == [cold, hot]
    (pack,) = bench.names("packs")
    sent = (bench.depot.path / pack).stat().st_ino
    hotter = os.urandom(LARGE)
    bench.save(2, cold, hotter)
    second = bench.copy()
    assert bench.check_whole() == [cold, hotter]
    assert (first.generation, second.generation) == (2, 3)
    assert len(bench.names("packs")) == 2
    assert (bench.depot.path / pack).stat().st_ino == sent
    assert bench.names("databases") == {second.database.name}
    bench.save(3, b"small")
    bench.copy()
    assert bench.check_whole() == [b"small"]
    assert bench.names("packs") == set()


def test_the_place_takes_what_is_needed_and_not_what_was(bench: Bench) -> None:
    """Of packs with holes what is left in them is sent; one there that has become a waste is sent again."""
    cold, hot = os.urandom(LARGE), os.urandom(4 * LARGE)
    bench.save(1, cold, hot)
    bench.copy()
    (first,) = bench.names("packs")
    bench.save(2, cold, b"small")
    bench.copy()
    (second,) = bench.names("packs")
    assert (bench.depot.path / second).stat().st_size < LARGE + 4096
    assert first != second
    assert bench.check_whole() == [cold, b"small"]
    bench.copy()
    assert bench.names("packs") == {second}


def test_what_a_killed_copy_has_sent_is_not_sent_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A first copy of many gigabytes may be killed more than once."""
    bench.save(1, os.urandom(LARGE))
    sent: list[str] = []

    def meddle(name: str) -> None:
        sent.append(name)
        if len(sent) == 1:
            raise DepotError("killed here")

    meddling(bench, meddle)
    with bench.copier() as copier, pytest.raises(DepotError):
        copier.copy()
    bench.copy()
    assert [name.split("/")[0] for name in sent] == ["packs", "databases"]
    bench.check_whole()


def test_a_study_that_has_not_changed_is_not_copied_again(bench: Bench) -> None:
    """The pointer stays; only the time of the copy is newer."""
    bench.save(1, os.urandom(LARGE))
    before = bench.copy()
    with bench.copier() as copier:
        state = copier.copy()
    assert bench.pointer == before
    assert state.at is not None
    assert state.at > before.at
    assert state.num_bytes > LARGE


def test_bytes_that_are_given_up_in_mid_copy_stay_until_it_is_over(bench: Bench) -> None:
    """A worker saves and removes as ever; what it gave up is freed when nobody copies it any more."""
    old, new = os.urandom(LARGE), os.urandom(LARGE)
    bench.save(1, old)
    (pack,) = bench.packs.path.glob("*.pack")
    seen: list[bool] = []

    def meddle(name: str) -> None:
        if name.startswith("packs/") and not seen:
            bench.save(2, new)
            seen.append(pack.exists())

    meddling(bench, meddle)
    bench.copy()
    assert seen == [True]
    assert bench.check_whole() == [old]
    assert not pack.exists()
    assert list(bench.packs.path.glob("*.pin")) == []
    bench.copy()
    assert bench.check_whole() == [new]


def test_bytes_that_vanish_all_the_same_make_the_copy_begin_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that looked for pins just before there was one punches a hole into what is being sent."""
    cold, old, new = (os.urandom(LARGE) for _ in range(3))
    bench.save(1, cold, old)
    monkeypatch.setattr(PackFolder, "_pinned", lambda self: set())
    turns: list[int] = []

    def meddle(name: str) -> None:
        if name.startswith("packs/") and not turns:
            turns.append(1)
            bench.save(2, cold, new)

    meddling(bench, meddle)
    bench.copy()
    assert turns
    assert bench.check_whole() == [cold, new]


def test_a_pack_that_is_removed_before_it_is_pinned_makes_the_copy_begin_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial ends between the copy of the database and the pins: what names a lost pack is no whole copy."""
    old, new = os.urandom(LARGE), os.urandom(LARGE)
    bench.save(1, old)
    (pack,) = bench.packs.path.glob("*.pack")
    copy_database, turns = backups.copy_database, []

    def and_end(source: Path, target: Path) -> None:
        copy_database(source, target)
        if not turns:
            turns.append(1)
            bench.save(2, new)
            assert not pack.exists()

    monkeypatch.setattr(backups, "copy_database", and_end)
    bench.copy()
    assert turns
    assert bench.check_whole() == [new]


def test_a_study_that_is_damaged_here_is_copied_as_it_is(bench: Bench) -> None:
    """A lost pack is not the end of all copying: the rest is as safe as before."""
    small = b"small and whole"
    bench.store.save(snapshot(1, [small]), number=0, fence=1)
    bench.store.save(snapshot(2, [os.urandom(LARGE)]), number=0, fence=1)
    (pack,) = bench.packs.path.glob("*.pack")
    pack.unlink()
    pointer = bench.copy()
    assert pointer.packs == ()
    with writing(bench.engine) as connection:
        connection.execute(text("UPDATE tunesafe_blobs SET pack_offset = 'text' WHERE pack IS NOT NULL"))
    assert bench.copy().generation == 2


def test_a_place_without_space_keeps_the_copy_before(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error at any write leaves what counts as it was, and nothing beside the database."""
    bench.save(1, os.urandom(LARGE))
    before = bench.copy()
    bench.save(2, os.urandom(LARGE))

    def full(self: FolderDepot, name: str, content: object) -> None:
        raise DepotError("no space")

    monkeypatch.setattr(FolderDepot, "put", full)
    with bench.copier() as copier, pytest.raises(DepotError):
        copier.copy()
    assert bench.pointer == before
    bench.check_whole()
    assert not bench.beside.snapshot.exists()


def test_the_database_is_copied_as_of_one_moment(engine: Engine, tmp_path: Path) -> None:
    """Whoever writes meanwhile waits for nobody; what it wrote is in the copy wholly or not at all."""
    with writing(engine) as connection:
        connection.execute(text("CREATE TABLE pairs (one INTEGER, other INTEGER)"))
        connection.execute(text("INSERT INTO pairs VALUES (0, 0)"))
    path = Path(str(engine.url.database))
    with engine.connect() as connection, connection.execution_options(tunesafe_writes=True).begin():
        connection.execute(text("UPDATE pairs SET one = 1"))
        backups.copy_database(path, tmp_path / "copy.db")
        connection.execute(text("UPDATE pairs SET other = 1"))
    copied = read_only_engine(f"sqlite:///{tmp_path / 'copy.db'}")
    with reading(copied) as connection:
        assert connection.execute(text("SELECT one, other FROM pairs")).one() == (0, 0)
    copied.dispose()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """A database."""
    engine = open_engine(f"sqlite:///{tmp_path / 'plain.db'}")
    yield engine
    engine.dispose()
