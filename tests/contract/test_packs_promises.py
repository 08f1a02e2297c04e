"""What every home of large bytes keeps to, wherever it is and whatever database names what is in it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.unit.store.samples import claimed_study, open_ready, snapshot
from tunesafe.errors import DamagedError, StorageError
from tunesafe.store.checkpoints import CheckpointStore
from tunesafe.store.depot_urls import packs_of
from tunesafe.store.depots import UnreachableDepotError
from tunesafe.store.distant_packs import DistantPacks
from tunesafe.store.folders import FolderDepot
from tunesafe.store.pack_file import Place
from tunesafe.store.packs import PackFolder, Packs
from tunesafe.study.patience import Patience

pytestmark = pytest.mark.timeout(600)

LARGE = 3 << 20
STUDY = "5" * 32


@pytest.fixture(params=["beside", "folder", pytest.param("s3", marks=pytest.mark.s3), "gcs"])
def packs(request: pytest.FixtureRequest, tmp_path: Path, sqlite_url: str) -> Packs:
    """An empty home of every kind in turn."""
    from sqlalchemy import make_url

    place = {"beside": None, "folder": f"file://{tmp_path}/blobs"}
    url = place[request.param] if request.param in place else request.getfixturevalue(f"{request.param}_url")
    found = packs_of(make_url(sqlite_url), STUDY, url)
    assert found is not None
    return found


def test_what_was_written_is_read(packs: Packs) -> None:
    """Each piece for itself, into memory of one's own or given; nothing is had of what is not there."""
    contents = [os.urandom(size) for size in (1000, 0, 5 << 20, 7)]
    places = packs.write([[memoryview(content)] for content in contents])
    assert [bytes(packs.read(place)) for place in places] == contents
    memory = memoryview(bytearray(1000))
    assert bytes(packs.read(places[0], memory)) == bytes(memory) == contents[0]
    nowhere = Place("0" * 32, 0, 100)
    assert bytes(packs.read(nowhere)) == b""
    assert bytes(packs.read(places[0]._replace(num_bytes=10**7)))[:1000] == contents[0]
    assert packs.present({"a": places[0], "b": nowhere}) == {"a": places[0]}


def test_what_nobody_needs_goes_and_nothing_else(packs: Packs) -> None:
    """At once where it is said, later where it was left behind, and only if it is old."""
    first, second = packs.write([[memoryview(b"1" * LARGE)], [memoryview(b"2" * LARGE)]])
    (other,) = packs.write([[memoryview(b"3" * LARGE)]])
    packs.free([first], {second.pack: [second]})
    assert bytes(packs.read(second)) == b"2" * LARGE
    packs.free([second], {})
    assert bytes(packs.read(second)) == b""
    assert packs.left_behind({}, 3600) == packs.sweep({}, 3600) == 0
    assert packs.sweep({other.pack: [other]}, -1) == 0
    assert packs.left_behind({}, -1) == packs.sweep({}, -1) >= LARGE
    assert bytes(packs.read(other)) == b""


@pytest.mark.parametrize("name", ["", "..", "../other", "a/b", "x" * 5])
def test_a_name_leads_nowhere_but_into_the_place(packs: Packs, name: str) -> None:
    """A damaged database may name anything."""
    packs.write([[memoryview(b"ours")]])
    assert bytes(packs.read(Place(name, 0, 5))) == b""
    packs.free([Place(name, 0, 5)], {})


def test_studies_in_one_place_do_not_see_each_other(tmp_path: Path) -> None:
    """A sweep of one takes nothing of the other's."""
    from sqlalchemy import make_url

    url = make_url("sqlite:///unused.db")
    ours, theirs = (packs_of(url, uuid, f"file://{tmp_path}/blobs") for uuid in ("a" * 32, "b" * 32))
    assert isinstance(ours, DistantPacks)
    assert isinstance(theirs, DistantPacks)
    (place,) = theirs.write([[memoryview(b"theirs")]])
    ours.write([[memoryview(b"ours")]])
    assert ours.sweep({}, -1) == 4
    assert bytes(theirs.read(place)) == b"theirs"


def test_a_wrong_place_is_not_taken_for_a_damaged_one(tmp_path: Path) -> None:
    """Else a mistyped bucket would make all trials begin again."""
    from sqlalchemy import make_url

    packs = packs_of(make_url("sqlite:///unused.db"), STUDY, f"file://{tmp_path}/wrong")
    assert packs is not None
    with pytest.raises(StorageError, match="does not hold the checkpoints of this study"):
        packs.read(Place("0" * 32, 0, 100))


def test_a_state_elsewhere_is_whole_or_not_there_on_every_database(engine: Engine, tmp_path: Path) -> None:
    """Saved, loaded, found damaged, healed, forgotten; its bytes are not in the database."""
    study, _ = claimed_study(engine)
    packs = packs_of(engine.url, study, f"file://{tmp_path}/blobs")
    store = CheckpointStore(engine, study, packs)
    cold, hot = os.urandom(LARGE), os.urandom(LARGE)
    first = store.save(snapshot(1, [cold]), number=0, fence=1)
    info = store.save(snapshot(2, [cold, hot]), number=0, fence=1)
    assert [bytes(tensor) for tensor in store.load(info).tensors] == [cold, hot]
    objects = sorted((tmp_path / "blobs" / study).glob("*.pack"), key=lambda file: file.stat().st_mtime_ns)
    assert len(objects) == 2
    with objects[1].open("r+b") as file:
        file.seek(100)
        file.write(b"damage")
    with pytest.raises(DamagedError, match="trial 0"):
        store.load(info)
    damages: list[DamagedError] = []
    state = store.newest_intact(0, damages.append)
    assert state is not None
    assert [bytes(tensor) for tensor in state.tensors] == [cold]
    assert len(damages) == 1
    store.mark_damaged(damages)
    healed = store.save(snapshot(3, [cold, hot]), number=0, fence=1)
    assert [bytes(tensor) for tensor in store.load(info).tensors] == [cold, hot]
    store.remove([first.checkpoint_id, info.checkpoint_id])
    assert [bytes(tensor) for tensor in store.load(healed).tensors] == [cold, hot]
    store.remove([healed.checkpoint_id])
    store.sweep_orphans(-1)
    assert list((tmp_path / "blobs" / study).glob("*.pack")) == []


def test_small_pieces_do_not_keep_an_object_from_going(tmp_path: Path) -> None:
    """The structure of a trial's states is the same in all of them; a state of many small pieces is whole, too."""
    engine = open_ready(f"sqlite:///{tmp_path}/x.db")
    study, _ = claimed_study(engine)
    store = CheckpointStore(engine, study, packs_of(engine.url, study, f"file://{tmp_path}/blobs"))
    bias = os.urandom(4000)
    for epoch in range(1, 4):
        tensors = [bias, os.urandom(LARGE)]
        store.save(snapshot(epoch, tensors), number=0, fence=1, surplus=lambda infos: [i.checkpoint_id for i in infos])
    assert len(list((tmp_path / "blobs" / study).glob("*.pack"))) == 1
    for pieces in (300, 1000):
        tensors = [os.urandom(5000) for _ in range(pieces)]
        info = store.save(snapshot(3 + pieces, tensors), number=0, fence=1)
        assert [bytes(tensor) for tensor in store.load(info).tensors] == tensors
    engine.dispose()


def test_a_place_that_is_away_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a database that is away: the same save is made again, and is there once."""
    engine = open_ready(f"sqlite:///{tmp_path}/x.db")
    study, _ = claimed_study(engine)
    store = CheckpointStore(engine, study, packs_of(engine.url, study, f"file://{tmp_path}/blobs"))
    put, left = FolderDepot.put, [1, 2, 3]

    def away(self: FolderDepot, name: str, content: bytes | Iterator[bytes]) -> None:
        if left:
            left.pop()
            raise UnreachableDepotError("away")
        put(self, name, content)

    monkeypatch.setattr(FolderDepot, "put", away)
    state = os.urandom(LARGE)
    patience = Patience(60.0, sleep=lambda seconds: None)
    info = patience(store.save, snapshot(1, [state]), number=0, fence=1)
    assert left == []
    assert [bytes(tensor) for tensor in store.load(info).tensors] == [state]
    assert len(list((tmp_path / "blobs" / study).glob("*.pack"))) == 1
    engine.dispose()


def test_only_folders_beside_a_database_have_holes(tmp_path: Path) -> None:
    """An object of which something is needed stays as it is."""
    beside = PackFolder(tmp_path / "packs")
    distant = packs_of(open_ready(f"sqlite:///{tmp_path}/x.db").url, STUDY, f"file://{tmp_path}/blobs")
    assert distant is not None
    for packs, changes in ((beside, True), (distant, False)):
        first, second = packs.write([[memoryview(os.urandom(LARGE))], [memoryview(os.urandom(LARGE))]])
        before = bytes(packs.read(first))
        packs.free([first], {second.pack: [second]})
        assert (bytes(packs.read(first)) != before) == changes


def test_importing_the_store_brings_no_library_for_object_stores() -> None:
    """It is an extra, and takes its time."""
    statement = "import sys, tunesafe.store.depot_urls, tunesafe.cli; assert 'obstore' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", statement], check=False).returncode == 0
