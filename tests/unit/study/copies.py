"""A study with checkpoints, and a second place in a folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.unit.store.samples import claimed_study, snapshot
from tunesafe.store import backups, studies
from tunesafe.store.backup_state import BackupFolder, backups_beside
from tunesafe.store.backups import PackObject, Pointer
from tunesafe.store.checkpoints import CheckpointStore
from tunesafe.store.engine import open_engine, read_only_engine, reading
from tunesafe.store.folders import FolderDepot
from tunesafe.store.hashing import file_hash
from tunesafe.store.migrations import upgrade
from tunesafe.store.packs import PackFolder, packs_beside
from tunesafe.store.parcels import unpack_parcel
from tunesafe.study.copying import Copier

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
        pointer, folder = self.pointer, self.beside.path.with_name("check")
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
