"""The bytes of a study as they lie: in rows of its database, in packs beside it, in a folder or an object store.

For tests that damage them, wherever they are. What a trial falls back on is worked out here from its manifests
alone, so that the product's own search can be compared with it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from sqlalchemy import select, update

from tests.crash.harness import Study
from tunesafe.contracts import CheckpointInfo
from tunesafe.spec.backup import resolve_place
from tunesafe.store.checkpoints import CheckpointStore
from tunesafe.store.depot_urls import open_depot
from tunesafe.store.engine import open_engine, reading, writing
from tunesafe.store.folders import FolderDepot
from tunesafe.store.manifests import Part, read_manifest
from tunesafe.store.pack_file import Place
from tunesafe.store.packs import packs_beside
from tunesafe.store.studies import find_study
from tunesafe.store.tables import blob_chunks, checkpoints
from tunesafe.store.tables import blobs as blob_rows

__all__ = ["StoredBytes", "stored_bytes"]

_ENDING = ".pack"


class StoredBytes:
    """The stored bytes of one study.

    Args:
        study: Which one; nobody works on it.
    """

    def __init__(self, study: Study) -> None:
        content = json.loads((study.folder / "study.yaml").read_text())
        self.engine = open_engine(content.get("storage", f"sqlite:///{study.folder / content['name']}.db"))
        with reading(self.engine) as connection:
            row = find_study(connection, content["name"])
        assert row is not None
        self.uuid = row.uuid
        beside = packs_beside(self.engine.url)
        self._prefix, self._depot = "", None
        if "blobs" in content:
            place = resolve_place(content["blobs"], study.folder)
            self._prefix, self._depot = f"{self.uuid}/", open_depot(place)
        elif beside is not None:
            self._depot = open_depot(f"file://{beside.path}")
        # To list and to read manifests: those are in the database, wherever the bytes are.
        self._store = CheckpointStore(self.engine, self.uuid, None)

    def infos(self, number: int) -> list[CheckpointInfo]:
        """The checkpoints of a trial, newest first."""
        return self._store.infos(number)

    def parts(self, info: CheckpointInfo) -> list[Part]:
        """What a checkpoint consists of, each byte once, under the first of its names; nothing empty."""
        found: dict[tuple[str, int], Part] = {}
        for part in read_manifest(self._store.manifest(info)).parts:
            if part.num_bytes:
                found.setdefault((part.blob, part.offset), part)
        return list(found.values())

    def is_in_pack(self, part: Part) -> bool:
        """Whether it is in a pack, and not in rows."""
        return self._place(part) is not None

    def fallback(self, number: int, damaged: Collection[str], without: Collection[int] = ()) -> int:
        """Where a trial goes on that has lost these bytes and these checkpoints [examples]."""
        for info in self.infos(number):
            if info.checkpoint_id not in without and not {part.blob for part in self.parts(info)} & set(damaged):
                return info.position.examples_seen
        return 0

    # ------------------------------------------------------------------ damage

    def flip(self, part: Part) -> None:
        """Flip one bit in the middle of some bytes."""
        place = self._place(part)
        if place is None:
            with writing(self.engine) as connection:
                query = select(blob_chunks.c.blob_id, blob_chunks.c.seq, blob_chunks.c.data)
                rows = connection.execute(query.where(blob_chunks.c.blob_id == self._blob_id(part))).all()
                assert len(rows) == 1  # a state of these studies is small
                (row,) = rows
                here = (blob_chunks.c.blob_id == row.blob_id, blob_chunks.c.seq == row.seq)
                damaged = _flipped(bytes(row.data), part.offset + part.num_bytes // 2)
                assert connection.execute(update(blob_chunks).where(*here).values(data=damaged)).rowcount == 1
            return
        whole = self.pack(place.pack)
        self.put_pack(place.pack, _flipped(whole, place.offset + part.offset + part.num_bytes // 2))

    def flip_column(self, info: CheckpointInfo, column: str) -> None:
        """Flip one bit of one character in the text of a checkpoint's row."""
        by_id = checkpoints.c.checkpoint_id == info.checkpoint_id
        with writing(self.engine) as connection:
            text = connection.execute(select(checkpoints.c[column]).where(by_id)).scalar_one()
            hashed = re.search(r"(xxh3|blake3):", text)
            assert hashed is not None
            found = hashed.end()  # a digit of a hash: another is as good a text
            damaged = _flipped(text.encode(), found).decode()
            assert connection.execute(update(checkpoints).where(by_id).values({column: damaged})).rowcount == 1

    def put_pack(self, name: str, content: bytes | None) -> None:
        """Put other bytes in the place of a pack; ``None`` for none at all."""
        assert self._depot is not None
        if content is None:
            self._depot.delete([self._object(name)])
        else:
            self._depot.put(self._object(name), content)

    def pack(self, name: str) -> bytes:
        """The bytes of a pack."""
        assert self._depot is not None
        content = self._depot.get(self._object(name))
        assert content is not None
        return content

    def pack_of(self, info: CheckpointInfo) -> str:
        """The pack that holds most of what a checkpoint alone names."""
        largest = max(self.parts(info), key=lambda part: part.num_bytes)
        place = self._place(largest)
        assert place is not None
        return place.pack

    def in_pack(self, name: str) -> set[str]:
        """The names of all bytes in a pack."""
        with reading(self.engine) as connection:
            return set(connection.execute(select(blob_rows.c.hash).where(blob_rows.c.pack == name)).scalars())

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """All packs, and what marks their place, are gone while the block runs."""
        depot = self._depot
        assert depot is not None
        if not self._prefix:
            assert isinstance(depot, FolderDepot)
            path = depot.path
            path.rename(path.with_name("elsewhere"))
            try:
                yield
            finally:
                path.with_name("elsewhere").rename(path)
            return
        names = [entry.name for entry in depot.entries(self.uuid)]
        contents = {name: depot.get(name) for name in names}
        depot.delete(names)
        try:
            yield
        finally:
            for name, content in contents.items():
                assert content is not None
                depot.put(name, content)

    def _object(self, name: str) -> str:
        return f"{self._prefix}{name}{_ENDING}"

    def _blob_id(self, part: Part) -> int:
        by_hash = (blob_rows.c.study == self.uuid, blob_rows.c.hash == part.blob)
        with reading(self.engine) as connection:
            return int(connection.execute(select(blob_rows.c.blob_id).where(*by_hash)).scalar_one())

    def _place(self, part: Part) -> Place | None:
        columns = (blob_rows.c.pack, blob_rows.c.pack_offset)
        with reading(self.engine) as connection:
            by_hash = (blob_rows.c.study == self.uuid, blob_rows.c.hash == part.blob)
            row = connection.execute(select(*columns).where(*by_hash)).one()
        return None if row.pack is None else Place(row.pack, row.pack_offset, part.num_bytes)


@contextmanager
def stored_bytes(study: Study) -> Iterator[StoredBytes]:
    """The stored bytes of a study; no connection is left."""
    stored = StoredBytes(study)
    try:
        yield stored
    finally:
        stored.engine.dispose()


def _flipped(content: bytes, index: int) -> bytes:
    return content[:index] + bytes([content[index] ^ 1]) + content[index + 1 :]
