"""One copy to a second place: whole, incremental, fenced, and never in the way of those who work."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from tests.unit.store.samples import claimed_study, snapshot
from tunesafe.errors import DamagedError, SpecError, StorageError
from tunesafe.store import backups, studies
from tunesafe.store.backup_state import BackupFolder, backups_beside
from tunesafe.store.backups import POINTER, PackObject, Pointer
from tunesafe.store.checkpoints import CheckpointStore
from tunesafe.store.depots import DepotError
from tunesafe.store.engine import open_engine, read_only_engine, reading, writing
from tunesafe.store.events import append_event
from tunesafe.store.folders import FolderDepot
from tunesafe.store.hashing import file_hash
from tunesafe.store.migrations import upgrade
from tunesafe.store.packs import PackFolder, packs_beside
from tunesafe.store.parcels import unpack_parcel
from tunesafe.study.copying import OWNING, Copier, PlaceLostError, owner_token, owning_event, refuse_taken_place

LARGE = 2 << 20


class Bench:
    """A study with a checkpoint store, and a second place in a folder.

    Args:
        folder: Of both.
    """

    def __init__(self, folder: Path) -> None:
        engine = open_engine(f"sqlite:///{folder / 'study.db'}")
        upgrade(engine)
        uuid, _ = claimed_study(engine)
        engine.dispose()
        self.open(folder, uuid)
        self.depot = FolderDepot(folder / "place")

    def open(self, folder: Path, uuid: str) -> None:
        """Work on the study in a folder."""
        self.engine, self.uuid = open_engine(f"sqlite:///{folder / 'study.db'}"), uuid
        packs, beside = packs_beside(self.engine.url), backups_beside(self.engine.url, uuid)
        assert packs is not None
        assert beside is not None
        self.packs: PackFolder = packs
        self.beside: BackupFolder = beside
        self.store = CheckpointStore(self.engine, uuid, packs)

    @property
    def row(self) -> studies.StudyRow:
        """The study's row."""
        with reading(self.engine) as connection:
            row = studies.find_study(connection, studies.study_names(connection)[0])
        assert row is not None
        return row

    def save(self, virtual_epoch: int, *tensors: bytes) -> None:
        """A checkpoint that takes the place of all others."""
        self.store.save(
            snapshot(virtual_epoch, tensors, f"{{{virtual_epoch}}}"),
            number=0,
            fence=1,
            surplus=lambda infos: [info.checkpoint_id for info in infos],
        )

    def names(self, folder: str) -> set[str]:
        """What is in a folder of the place."""
        return {entry.name for entry in self.depot.entries(folder)}

    def copier(self) -> Copier:
        """One that may copy."""
        copier = Copier(self.engine, self.row, self.depot, self.beside)
        assert copier.take()
        return copier

    def copy(self) -> Pointer:
        """Copy once, and return the pointer."""
        with self.copier() as copier:
            copier.copy()
        return self.pointer

    @property
    def pointer(self) -> Pointer:
        """What the place says."""
        found = backups.look_up(self.depot)
        assert found is not None
        return found[0]

    def check_whole(self) -> list[bytes]:
        """Everything the pointer names is there and verified; the newest checkpoint's tensors."""
        pointer, folder = self.pointer, self.depot.path.with_name("check")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        database = folder / "copy.db"
        blocks = self.depot.blocks(pointer.database.name)
        assert blocks is not None
        database.write_bytes(b"".join(blocks))
        assert file_hash(database) == pointer.database.hash
        packs = PackFolder(folder / "copy.db.packs")
        packs.path.mkdir()
        for name in pointer.packs:
            found, parcel = PackObject.of_name(name), self.depot.blocks(name)
            assert found is not None
            assert parcel is not None
            unpack_parcel(parcel, packs.file(found.pack))
        engine = read_only_engine(f"sqlite:///{database}")
        store = CheckpointStore(engine, self.uuid, packs)
        states = [store.load(info) for info in store.infos()]
        engine.dispose()
        return [bytes(tensor) for tensor in states[0].tensors] if states else []


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A study without a checkpoint."""
    bench = Bench(tmp_path)
    yield bench
    bench.engine.dispose()


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


class Meddling(FolderDepot):
    """A place during whose uploads something happens."""

    meddle: Callable[[str], None]

    def put(self, name: str, content: bytes | Iterator[bytes]) -> None:
        """Meddle after a pack, too: what was sent is what was there before."""
        super().put(name, content)
        self.meddle(name)


def meddling(bench: Bench, meddle: Callable[[str], None]) -> None:
    """Let something happen with every upload."""
    bench.depot = Meddling(bench.depot.path)
    Meddling.meddle = staticmethod(meddle)  # type: ignore[method-assign, assignment]


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
