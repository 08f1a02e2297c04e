"""Google Cloud Storage that fails: what is sent is whole or not there, and nothing is lost by it."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from tests.gcs_server import Fault, GcsServer, Request
from tests.unit.store.samples import claimed_study, open_ready, snapshot
from tests.unit.study.copies import Bench
from tunesafe.store import objects
from tunesafe.store.backups import POINTER
from tunesafe.store.checkpoints import CheckpointStore
from tunesafe.store.depot_urls import open_depot, packs_of
from tunesafe.store.depots import DepotError, UnreachableDepotError
from tunesafe.study.copying import PlaceLostError
from tunesafe.study.patience import Patience

LARGE = 17 << 20  # three parts of an upload


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library asks again at once."""
    monkeypatch.setattr(objects, "_PAUSE_SECONDS", 0.01)


@pytest.fixture
def bench(tmp_path: Path, gcs_url: str, impatient: None) -> Iterator[Bench]:
    """A study whose first checkpoint is in its second place; the next one waits to be copied."""
    bench = Bench(tmp_path)
    bench.depot = open_depot(gcs_url)
    bench.save(1, os.urandom(LARGE // 8))
    bench.copy()
    yield bench
    bench.engine.dispose()


def is_part(asked: Request) -> bool:
    """Whether it sends a part of an upload."""
    return "partNumber" in asked.query


def is_completion(asked: Request) -> bool:
    """Whether it ends an upload in parts."""
    return asked.method == "POST" and "uploadId" in asked.query


def is_pointer(asked: Request) -> bool:
    """Whether it moves the pointer."""
    return asked.method == "PUT" and asked.key.endswith(POINTER)


def test_the_pointer_may_move_again_at_once(gcs: GcsServer, gcs_url: str) -> None:
    """The service lets one object be written once in a second: a restore right after a copy waits for that."""
    written_at = [0.0]

    def fault(asked: Request) -> Fault | None:
        if not is_pointer(asked):
            return None
        if time.monotonic() < written_at[-1] + 1:
            return Fault.TOO_OFTEN
        written_at.append(time.monotonic())
        return None

    gcs.fault = fault
    depot = open_depot(gcs_url)
    depot.replace(POINTER, b"1", None)
    found = depot.look(POINTER)
    assert found is not None
    depot.replace(POINTER, b"2", found[1])
    assert depot.get(POINTER) == b"2"


def test_what_is_refused_is_asked_again(bench: Bench, gcs: GcsServer) -> None:
    """Every request of a copy once, and every part is cut off once."""
    content = os.urandom(LARGE)
    bench.save(2, content)
    asked_before = Counter[tuple[str, ...]]()

    def fault(asked: Request) -> Fault | None:
        what = asked.method, asked.key, *sorted(asked.query.values())
        asked_before[what] += 1
        if asked_before[what] > 1:
            return None
        return Fault.CUT if is_part(asked) else (Fault.UNAVAILABLE, Fault.TOO_OFTEN)[len(asked_before) % 2]

    gcs.fault = fault
    copied = bench.copy()
    assert len(asked_before) > 12
    assert bench.check_whole() == [content]
    assert bench.names("packs") == set(copied.packs)
    assert gcs.unfinished_uploads("tunesafe-test") == []


@pytest.mark.parametrize(
    ("fault", "when"),
    [(Fault.DEAF, is_completion), (Fault.DEAF, is_pointer), (Fault.CUT, is_pointer)],
    ids=["completion unheard", "pointer unheard", "pointer cut"],
)
def test_an_answer_that_is_lost_costs_another_copy_at_most(
    fault: Fault, when: Callable[[Request], bool], bench: Bench, gcs: GcsServer
) -> None:
    """Whether it was done or not: the error is one that may pass, the next copy is whole, and nothing else stays."""
    content = os.urandom(LARGE)
    bench.save(2, content)
    left = [fault]
    gcs.fault = lambda asked: left.pop() if left and when(asked) else None
    with suppress(UnreachableDepotError):
        bench.copy()
    assert left == []
    copied = bench.copy()
    assert bench.check_whole() == [content]
    assert bench.names("packs") == set(copied.packs)
    assert bench.names("databases") == {copied.database.name}


def test_a_bucket_that_is_not_there_is_no_failure_that_passes(gcs_url: str) -> None:
    """Else a mistyped one would be waited for; it is an error before an upload begins."""
    depot = open_depot(gcs_url.replace("tunesafe-test", "mistyped"))
    for content in (b"1", iter([b"1"])):
        with pytest.raises(DepotError, match="NoSuchBucket") as raised:
            depot.put("packs/one", content)
        assert not isinstance(raised.value, UnreachableDepotError)


@pytest.mark.parametrize("fault", [Fault.CUT, Fault.UNAVAILABLE])
def test_an_upload_that_never_ends_leaves_the_copy_before(fault: Fault, bench: Bench, gcs: GcsServer) -> None:
    """Its third part does not get through: nothing of it is there, nor its parts, and that may pass."""
    before, objects = bench.pointer, set(gcs.buckets["tunesafe-test"])
    bench.save(2, os.urandom(LARGE))
    gcs.fault = lambda asked: fault if asked.query.get("partNumber") == "3" else None
    with pytest.raises(UnreachableDepotError):
        bench.copy()
    assert bench.pointer == before
    assert set(gcs.buckets["tunesafe-test"]) == objects
    assert gcs.unfinished_uploads("tunesafe-test") == []


def test_a_host_that_comes_between_look_and_put_has_the_place(bench: Bench, gcs: GcsServer) -> None:
    """It is the generation that is no longer the one that was read; nothing of the other's is removed."""
    before = bench.pointer
    taken = replace(before, generation=9, owner="another", taken_by="new host")

    def fault(asked: Request) -> None:
        if is_pointer(asked):
            gcs.put(asked.bucket, asked.key, taken.to_bytes())

    bench.save(2, os.urandom(LARGE))
    gcs.fault = fault
    with pytest.raises(PlaceLostError, match="restored on new host"):
        bench.copy()
    assert bench.pointer == taken
    assert {before.database.name, *before.packs} <= bench.names("packs") | bench.names("databases")


@pytest.mark.parametrize(
    ("faults", "when", "num_objects"),
    [([Fault.UNAVAILABLE] * 6, is_part, 1), ([Fault.DEAF], is_completion, 2)],
    ids=["away", "completion unheard"],
)
def test_large_states_are_saved_again_where_that_may_help(
    faults: list[Fault],
    when: Callable[[Request], bool],
    num_objects: int,
    tmp_path: Path,
    gcs: GcsServer,
    gcs_url: str,
    impatient: None,
) -> None:
    """Away for longer than the library tries, or of unknown success: what nobody names is for the sweep."""
    engine = open_ready(f"sqlite:///{tmp_path}/x.db")
    study, _ = claimed_study(engine)
    store = CheckpointStore(engine, study, packs_of(engine.url, study, gcs_url))
    left = list(faults)
    gcs.fault = lambda asked: left.pop() if left and when(asked) else None
    state = os.urandom(LARGE)
    info = Patience(60.0, sleep=lambda seconds: None)(store.save, snapshot(1, [state]), number=0, fence=1)
    assert left == []
    assert [bytes(tensor) for tensor in store.load(info).tensors] == [state]
    assert len([name for name in gcs.buckets["tunesafe-test"] if name.endswith(".pack")]) == num_objects
    store.sweep_orphans(-1)
    assert len([name for name in gcs.buckets["tunesafe-test"] if name.endswith(".pack")]) == 1
    engine.dispose()
