"""Small tensors that change are merged: what is merged, what never is, and that every byte comes back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, func, select

from tests.unit.store.samples import claim, claimed_study, on_disk, open_ready
from tunesafe.contracts import CheckpointInfo, Position, Snapshot, TensorBytes
from tunesafe.errors import DamagedError
from tunesafe.store import tables
from tunesafe.store.checkpoints import CheckpointStore
from tunesafe.store.engine import reading, writing
from tunesafe.store.hashing import state_hash
from tunesafe.store.manifests import read_manifest, tensors_of
from tunesafe.store.packs import packs_beside
from tunesafe.store.segments import SMALL_TENSOR_BYTES, Layout, arrange
from tunesafe.store.statements import _compiled

SMALL = 1000


def state(epoch: int, tensors: Mapping[str, bytes]) -> Snapshot:
    """A state at a boundary, of tensors by path."""
    parts = tuple(TensorBytes(path, "uint8", (len(data),), memoryview(data)) for path, data in tensors.items())
    return Snapshot(Position(10 * epoch, epoch), f'{{"epoch": {epoch}}}', parts)


def text(what: object, size: int = SMALL) -> bytes:
    """Bytes that nothing else has."""
    return (repr(what).encode() * size)[:size]


@pytest.fixture(params=["database", "packs"])
def store(engine: Engine, request: pytest.FixtureRequest) -> CheckpointStore:
    """A study with a claimed trial; all bytes in the database, or all in packs."""
    packs = packs_beside(engine.url) if request.param == "packs" else None
    return CheckpointStore(engine, claimed_study(engine)[0], packs, 0 if packs else 1 << 20)


def moving(epoch: int, count: int = 4) -> dict[str, bytes]:
    """Tensors that change at every epoch."""
    return {f"model/{index}": text((epoch, index)) for index in range(count)}


def blob_sizes(engine: Engine) -> list[int]:
    """Of everything stored, smallest first [bytes]."""
    with reading(engine) as connection:
        return sorted(connection.execute(select(tables.blobs.c.num_bytes)).scalars())


def loaded(store: CheckpointStore, info: CheckpointInfo) -> list[bytes]:
    """The tensors of a checkpoint."""
    return [bytes(tensor or b"") for tensor in store.load(info).tensors]


def test_what_a_trial_shows_first_has_blobs_of_its_own_and_what_changes_shares_one(
    engine: Engine, store: CheckpointStore
) -> None:
    """Four tensors and the structure are five blobs; the next time, two."""
    store.save(state(1, moving(1)), number=0, fence=1)
    assert len(blob_sizes(engine)) == 5
    second = store.save(state(2, moving(2)), number=0, fence=1)
    assert len(blob_sizes(engine)) == 5 + 2
    assert blob_sizes(engine)[-1] == 4 * 1024  # each begins at a multiple of 64 bytes
    assert loaded(store, second) == list(moving(2).values())


def test_what_never_changes_is_stored_once_in_a_study(engine: Engine, store: CheckpointStore) -> None:
    """Nine of ten small tensors frozen, two trials, all checkpoints kept."""
    frozen = {f"backbone/{index}": text(index) for index in range(9)}
    with writing(engine) as connection:
        claim(connection, store._uuid, 1)
    for number in (0, 1):
        for epoch in range(1, 5):
            tensors = frozen | {"head/0": text((number, epoch, 0)), "head/1": text((number, epoch, 1))}
            store.save(state(epoch, tensors), number=number, fence=1)
    structures = 4  # of both trials
    stored = 9 * SMALL + 2 * (2 * SMALL + 3 * 2 * 1024)
    assert sum(blob_sizes(engine)) == stored + structures * len('{"epoch": 1}')


def test_what_stops_changing_is_named_where_it_is(engine: Engine, store: CheckpointStore) -> None:
    """And stays when the checkpoint is removed that it came with."""
    store.save(state(1, moving(1)), number=0, fence=1)
    store.save(state(2, moving(2)), number=0, fence=1)
    before = blob_sizes(engine)
    third = store.save(state(3, moving(2)), number=0, fence=1)
    assert sum(blob_sizes(engine)) == sum(before) + len('{"epoch": 3}')
    assert loaded(store, third) == list(moving(2).values())
    store.remove([info.checkpoint_id for info in store.infos(0)[1:]])
    assert loaded(store, third) == list(moving(2).values())


def test_half_of_a_segment_does_not_keep_the_other_half(engine: Engine, store: CheckpointStore) -> None:
    """Two of four tensors freeze: they get blobs of their own, so that what has changed can go."""
    store.save(state(1, moving(1)), number=0, fence=1)
    store.save(state(2, moving(2)), number=0, fence=1)
    half = {path: data for path, data in moving(2).items() if path in ("model/0", "model/1")}
    third = store.save(state(3, moving(3) | half), number=0, fence=1)
    store.remove([info.checkpoint_id for info in store.infos(0)[1:]])
    assert blob_sizes(engine) == [len('{"epoch": 3}'), SMALL, SMALL, 2 * 1024]
    assert loaded(store, third) == list((moving(3) | half).values())


def test_each_object_has_segments_of_its_own(engine: Engine, store: CheckpointStore) -> None:
    """So that an optimizer's bytes can be given up when a network's are kept."""

    def both(epoch: int) -> dict[str, bytes]:
        return {f"{owner}/{index}": text((owner, epoch, index)) for owner in ("model", "optimizer") for index in (0, 1)}

    store.save(state(1, both(1)), number=0, fence=1)
    second = store.save(state(2, both(2)), number=0, fence=1)
    store.remove([info.checkpoint_id for info in store.infos(0)[1:]])
    store.keep_weights(second, lambda structure: (0, 1))
    assert blob_sizes(engine) == [len('{"epoch": 2}'), 2 * 1024]
    (thinned,) = store.infos(0)
    assert loaded(store, thinned) == [*list(both(2).values())[:2], b"", b""]


def test_a_new_process_goes_on_where_the_last_one_was(engine: Engine, store: CheckpointStore) -> None:
    """What has changed is asked of the newest checkpoint, if nobody remembers."""
    store.save(state(1, moving(1)), number=0, fence=1)
    store.save(state(2, moving(2)), number=0, fence=1)
    again = CheckpointStore(engine, store._uuid, store._packs, store._small_bytes)
    before = len(blob_sizes(engine))
    again.save(state(3, moving(2)), number=0, fence=1)
    again.save(state(4, moving(4)), number=0, fence=1)
    assert len(blob_sizes(engine)) == before + 2 + 1


def test_bytes_of_the_checkpoint_before_that_are_gone_are_written_again(store: CheckpointStore) -> None:
    """Pruned by hand from another process, between two saves; one of twenty tensors has changed since."""
    store.save(state(1, moving(1, 20)), number=0, fence=1)
    store.save(state(2, moving(2, 20)), number=0, fence=1)
    CheckpointStore(store._engine, store._uuid, store._packs).remove([info.checkpoint_id for info in store.infos(0)])
    tensors = moving(2, 20) | {"model/7": text("changed")}
    third = store.save(state(3, tensors), number=0, fence=1)
    assert loaded(store, third) == list(tensors.values())


def test_a_state_that_is_trained_again_finds_its_bytes_there(engine: Engine, store: CheckpointStore) -> None:
    """After a fall back the same segment comes again, unlooked-for: one blob, and nothing left over."""
    first = store.save(state(1, moving(1)), number=0, fence=1)
    store.save(state(2, moving(2)), number=0, fence=1)
    third = store.save(state(3, moving(3)), number=0, fence=1)
    before = blob_sizes(engine)
    store.load(first)
    store._newest = 0, _layout_of(store, first)
    assert store.save(state(2, moving(2)), number=0, fence=1).position.virtual_epoch == 2
    assert store.save(state(3, moving(3)), number=0, fence=1) == third
    assert blob_sizes(engine) == before
    assert store.sweep_orphans(-1).in_packs + store.sweep_orphans(-1).in_database == 0


def _layout_of(store: CheckpointStore, info: CheckpointInfo) -> Layout:
    parts = read_manifest(store.manifest(info)).tensors
    return Layout({part.path: part.blob for part in parts if part is not None})


def test_damage_in_a_segment_names_a_tensor_and_is_healed_by_the_same_save(
    engine: Engine, store: CheckpointStore
) -> None:
    """In rows and in packs; with the segment every checkpoint is healed that names it."""
    store.save(state(1, moving(1)), number=0, fence=1)
    older = store.save(state(2, moving(2)), number=0, fence=1)
    info = store.save(state(3, moving(2)), number=0, fence=1)
    before = blob_sizes(engine)
    with writing(engine) as connection:
        largest = connection.execute(select(func.max(tables.blobs.c.num_bytes))).scalar_one()
        of_segment = tables.blobs.c.num_bytes == largest
        row = connection.execute(select(tables.blobs).where(of_segment)).one()
        if row.pack is None:
            connection.exec_driver_sql(
                f"UPDATE tunesafe_blob_chunks SET data = zeroblob(4096) WHERE blob_id = {row.blob_id}"
            )
        else:
            file = packs_beside(engine.url).file(row.pack)  # type: ignore[union-attr]  # a SQLite file has some
            with file.open("r+b") as pack:
                pack.seek(row.pack_offset + 2000)
                pack.write(b"\xff")
    with pytest.raises(DamagedError, match=r"tensor 'model/0' \(or one of 3 stored with it\) no longer matches"):
        store.load(info)
    damages: list[DamagedError] = []
    state_there = store.newest_intact(0, damages.append)
    assert state_there is not None
    assert state_there.info.position.virtual_epoch == 1
    store.mark_damaged(damages)
    again = CheckpointStore(engine, store._uuid, store._packs, store._small_bytes)
    healed = again.save(state(3, moving(2)), number=0, fence=1)
    assert loaded(again, healed) == loaded(again, older) == list(moving(2).values())
    assert blob_sizes(engine) == before


def test_bytes_that_the_checkpoint_before_had_under_another_name_are_no_new_ones(
    engine: Engine, store: CheckpointStore
) -> None:
    """A copy of the best weights, made when they were the newest: frozen ones stay where they are."""
    frozen = {"model/frozen": text("frozen"), "best/frozen": text("other")}
    store.save(state(1, frozen | moving(1)), number=0, fence=1)
    before = sum(blob_sizes(engine))
    copied = frozen | {"best/frozen": text("frozen")} | moving(2)
    second = store.save(state(2, copied), number=0, fence=1)
    assert sum(blob_sizes(engine)) == before + 4 * 1024 + len('{"epoch": 2}')
    assert loaded(store, second) == list(copied.values())


def test_tensors_share_no_memory_even_if_one_is_all_of_a_segment(store: CheckpointStore) -> None:
    """An anchor that was made of the weights, all in a row: the blob of one is the segment of the others."""

    def anchored(epoch: int) -> dict[str, bytes]:
        weight, bias = text((epoch, "weight"), 1024), text((epoch, "bias"), 64)
        return {"anchor/flat": weight + bias, "model/weight": weight, "model/bias": bias}

    store.save(state(1, anchored(1)), number=0, fence=1)
    tensors = store.load(store.save(state(2, anchored(2)), number=0, fence=1)).tensors
    for index, data in enumerate(anchored(2).values()):
        tensor = memoryview(tensors[index] or b"")
        assert bytes(tensor) == data
        tensor[:] = bytes([index]) * len(tensor)
    assert [set(bytes(tensor or b"")) for tensor in tensors] == [{0}, {1}, {2}]


def test_values_that_wander_from_path_to_path_are_stored_once(engine: Engine, store: CheckpointStore) -> None:
    """A queue of the last twenty: each save brings one that is new, and all others are somewhere else."""
    for epoch in range(1, 6):
        queue = {f"queue/{place}": text(("value", epoch + place)) for place in range(20)}
        info = store.save(state(epoch, queue), number=0, fence=1)
        assert loaded(store, info) == list(queue.values())
    assert sum(blob_sizes(engine)) == 24 * SMALL + 5 * len('{"epoch": 1}')


def test_a_pack_of_an_attempt_that_came_to_nothing_leaves_nothing(engine: Engine) -> None:
    """A large state is in a pack before the transaction finds out that bytes of the checkpoint before are gone."""
    packs = packs_beside(engine.url)
    assert packs is not None
    store = CheckpointStore(engine, claimed_study(engine)[0], packs)

    def large(epoch: int) -> dict[str, bytes]:
        small = {f"model/{index}": text((min(epoch, 2), index), 60_000) for index in range(20)}
        return {"model/large": text((epoch, "large"), 5 << 20), **small}

    store.save(state(1, large(1)), number=0, fence=1)
    store.save(state(2, large(2)), number=0, fence=1)
    CheckpointStore(engine, store._uuid, packs).remove([info.checkpoint_id for info in store.infos(0)])
    tensors = large(3) | {"model/3": text("changed", 60_000), "model/4": text("changed, too", 60_000)}
    assert loaded(store, store.save(state(3, tensors), number=0, fence=1)) == list(tensors.values())
    named = sum(blob_sizes(engine))
    assert on_disk([*packs.path.iterdir()]) < named + 10 * 4096


def test_states_of_any_number_of_tensors_need_few_different_statements(store: CheckpointStore) -> None:
    """Each is kept for good: an architecture search must not fill the memory with them."""
    before = _compiled.cache_info().misses
    for epoch in range(1, 60):
        info = store.save(
            state(epoch, {f"model/{epoch}/{i}": text((epoch, i), 10) for i in range(epoch)}), number=0, fence=1
        )
        store.load(info)
    assert _compiled.cache_info().misses - before < 60


def test_a_manifest_is_json_whatever_tensors_are_called(store: CheckpointStore) -> None:
    """Quotes, braces, other scripts, half of a surrogate pair: the text is what the JSON module would write."""
    for epoch in (1, 2):
        names = ['a"b', "a\\b", "{", "ü", "日本", "\ud800", "a\nb"]
        tensors = {f"model/{name}": text((epoch, name)) for name in names}
        info = store.save(state(epoch, tensors), number=0, fence=1)
        manifest = store.manifest(info)
        assert json.dumps(json.loads(manifest)) == manifest
        assert [entry.path for entry in tensors_of(manifest)] == list(tensors)
        assert [entry.hash for entry in tensors_of(manifest)] == [state_hash(data) for data in tensors.values()]
        assert loaded(store, info) == list(tensors.values())


def test_two_tensors_of_one_path_stay_two(store: CheckpointStore) -> None:
    """A key with a slash in it may read like a path: ``{"a/b": …, "a": {"b": …}}``."""
    for epoch in (1, 2, 3):
        parts = [TensorBytes("model/a/b", "uint8", (SMALL,), memoryview(text((epoch, index)))) for index in range(3)]
        info = store.save(Snapshot(Position(10 * epoch, epoch), "{}", tuple(parts)), number=0, fence=1)
        assert loaded(store, info) == [text((epoch, index)) for index in range(3)]


@st.composite
def histories(draw: st.DrawFn) -> list[dict[str, bytes]]:
    """States of one trial, one after the other: of each tensor some version, of some size; some come and go."""
    sizes = {
        f"{owner}/{index}": draw(st.sampled_from([0, 1, 63, 64, 65, 500, SMALL_TENSOR_BYTES]))
        for owner in ("model", "optimizer")
        for index in range(3)
    }
    states = draw(
        st.lists(st.dictionaries(st.sampled_from(list(sizes)), st.integers(0, 2), min_size=1), min_size=1, max_size=6)
    )
    return [{path: text(version, sizes[path]) for path, version in versions.items()} for versions in states]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(states=histories(), keep=st.integers(1, 3), restarts=st.sets(st.integers(0, 6)), packed=st.booleans())
def test_every_kept_state_comes_back_whatever_came_before(
    tmp_path_factory: pytest.TempPathFactory,
    states: list[dict[str, bytes]],
    keep: int,
    restarts: set[int],
    packed: bool,
) -> None:
    """Versions come back, tensors are equal to others, processes end: every byte, and nothing that is not needed."""
    folder: Path = tmp_path_factory.mktemp("histories")
    engine = open_ready(f"sqlite:///{folder}/study.db")
    uuid = claimed_study(engine)[0]
    packs = packs_beside(engine.url) if packed else None
    store = CheckpointStore(engine, uuid, packs, 0 if packed else 1 << 20)
    for epoch, tensors in enumerate(states):
        if epoch in restarts:
            store = CheckpointStore(engine, uuid, packs, 0 if packed else 1 << 20)
        store.save(
            state(epoch, tensors),
            number=0,
            fence=1,
            surplus=lambda infos: [info.checkpoint_id for info in infos[keep:]],
        )
        for info in store.infos(0):
            assert loaded(store, info) == list(states[info.position.virtual_epoch].values())
    assert len(store.infos(0)) == min(keep, len(states))
    with reading(engine) as connection:
        unnamed = ~tables.blobs.c.blob_id.in_(select(tables.checkpoint_blobs.c.blob_id))
        assert not connection.execute(select(tables.blobs).where(unnamed)).all()
    engine.dispose()


def views(tensors: Mapping[str, bytes]) -> Iterator[tuple[TensorBytes, str, memoryview]]:
    """What ``arrange`` is given."""
    for path, data in tensors.items():
        view = memoryview(data)
        yield TensorBytes(path, "uint8", (len(data),), view), state_hash(view), view


def test_a_large_state_is_merged_in_segments_of_a_few_megabytes() -> None:
    """Each fits into one row; every tensor is where its slot says."""
    tensors, names, data = zip(*views({f"model/{i}": text(i, SMALL_TENSOR_BYTES - 1) for i in range(100)}), strict=True)
    before = Layout({tensor.path: "another" for tensor in tensors})
    arranged = arrange(tensors, names, data, before)
    assert len(arranged.segments) == 2
    assert arranged.slots.keys() == set(names)
    for name, pieces in arranged.segments.items():
        whole = b"".join(pieces)
        assert len(whole) <= 4 << 20
        assert state_hash(memoryview(whole)) == name
        for index, slot in ((index, arranged.slots[names[index]]) for index in range(100)):
            if slot.segment == name:
                assert whole[slot.offset : slot.offset + len(data[index])] == data[index]


def test_one_tensor_that_changes_is_a_blob_and_no_segment() -> None:
    """There is nothing to merge it with: another object's go another way."""
    tensors, names, data = zip(*views({"model/0": text(0), "optimizer/0": text(1)}), strict=True)
    arranged = arrange(tensors, names, data, Layout({tensor.path: "another" for tensor in tensors}))
    assert not arranged.segments
    assert not arranged.slots
    assert not arranged.changed  # they are looked for: a counter may be the same in other trials
