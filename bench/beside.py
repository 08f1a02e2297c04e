"""(i) What checkpoints cost whatever is beside them: other workers, training, memory, the disk, a server.

The longest commit of another process while 140 MB are saved (and copied to a second place, from a database of
140 MB), against the same process left alone; training with ``checkpoint.every: auto``, against training without a
checkpoint; the memory that saving takes, against the state; the bytes a checkpoint adds where nine tenths of a
network are frozen, against the bytes that changed; and a save on PostgreSQL, against rows of bytes inserted by hand.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import perf_counter, sleep

import psycopg
import torch
from auto import NETWORKS, Network, train
from begun import UUID
from databases import UnreachableError, database, settings
from pairs import Comparison, Information, compare
from sqlalchemy import make_url
from studies_of_states import StateStudy

from tunesafe.store import inventory, studies
from tunesafe.store.backup_state import backups_beside
from tunesafe.store.checkpoints import CheckpointStore
from tunesafe.store.engine import reading
from tunesafe.store.folders import FolderDepot
from tunesafe.study.copying import Copier

__all__ = ["beside"]

_HERE = Path(__file__).resolve().parent
_MEGABYTES = 140
_SAVES = 5
_MORE_MS = 100.0
_TRAIN_SECONDS, _QUICK_SECONDS = 30.0, 6.0
_CHUNK_BYTES = 4 << 20
_WARM_UP = 8


def beside(pairs: int, quick: bool) -> Iterator[Comparison | Information]:
    """Every comparison of this benchmark, as it is made."""
    torch.set_num_threads(1)
    for copied in (False, True):
        with tempfile.TemporaryDirectory(prefix="tunesafe-bench-") as folder:
            yield _commits(Path(folder), pairs, copied=copied)
    for network in NETWORKS:
        yield from _training(network, _QUICK_SECONDS if quick else _TRAIN_SECONDS, pairs)
    for megabytes in (_MEGABYTES,) if quick else (_MEGABYTES, 400):
        yield _memory(megabytes, 1 if quick else pairs)
    with tempfile.TemporaryDirectory(prefix="tunesafe-bench-") as folder:
        yield _frozen(Path(folder))
    try:
        with tempfile.TemporaryDirectory() as folder, database("PostgreSQL", Path(folder)) as url:
            print(f"  PostgreSQL: {settings(url)}")
            yield _on_postgres(url, pairs)
    except UnreachableError as error:
        yield Information("PostgreSQL", f"NOT MEASURED: {error}")


def _commits(folder: Path, pairs: int, *, copied: bool = False) -> Comparison:
    study = StateStudy(f"sqlite:///{folder}/study.db", _MEGABYTES)
    with ExitStack() as stack:
        copy = stack.enter_context(_copies(study, folder)) if copied else None

        def work() -> None:
            study.save()
            if copy is not None:
                copy()

        for _ in range(_WARM_UP):
            work()
        longest = stack.enter_context(_longest_commit(str(study.engine.url), work))
        longest(_SAVES)
        alone = min(longest(0) for _ in range(3))
        found = compare(
            f"longest commit of another beside {_MEGABYTES} MB{' and its copy' * copied} (bound: +100 ms)",
            lambda: longest(_SAVES),
            lambda: longest(0),
            pairs=pairs,
            unit="ms",
            at_most=round(1.0 + _MORE_MS / alone, 2),
        )
    study.close()
    return found


@contextmanager
def _copies(study: StateStudy, folder: Path) -> Iterator[Callable[[], object]]:
    """What copies the study to a second place, in which a database of some size is sent each time."""
    in_database = CheckpointStore(study.engine, UUID, None)
    in_database.save(study.capture(), number=1, fence=1)
    beside = backups_beside(study.engine.url, UUID)
    with reading(study.engine) as connection:
        row = studies.find_study(connection, "bench")
    assert beside is not None
    assert row is not None
    with Copier(study.engine, row, FolderDepot(folder / "place"), beside) as copier:
        assert copier.take()
        yield copier.copy


@contextmanager
def _longest_commit(url: str, work: Callable[[], None]) -> Iterator[Callable[[int], float]]:
    """What a process of its own waits longest for [ms] while work is done some times, or for as long if none."""
    words = [sys.executable, str(_HERE / "commits.py"), url, UUID, "1"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        stdin, stdout = other.stdin, other.stdout
        stdout.readline()
        took = 0.0

        def longest(times: int) -> float:
            nonlocal took
            print("go", file=stdin, flush=True)
            begun = perf_counter()
            for _ in range(times):
                work()
            if times:
                took = perf_counter() - begun
            else:
                sleep(took)
            print("stop", file=stdin, flush=True)
            return float(stdout.readline())

        yield longest
        stdin.close()


def _training(network: Network, seconds: float, pairs: int) -> Iterator[Comparison | Information]:
    took, _ = train(network, 4, checkpoints=False)
    num_epochs = max(4, round(4 * seconds / took))
    saved: list[int] = []

    def with_checkpoints() -> float:
        seconds, num_saved = train(network, num_epochs, checkpoints=True)
        saved.append(num_saved)
        return seconds

    yield compare(
        f"{network.name}, every: auto, against no checkpoints",
        with_checkpoints,
        lambda: train(network, num_epochs, checkpoints=False)[0],
        pairs=pairs,
        unit="s",
        warm_up=False,
        at_most=1.05,
    )
    yield Information(f"{network.name}: checkpoints made", f"{saved} in {num_epochs} virtual epochs")


def _memory(megabytes: int, pairs: int) -> Comparison:
    def on_top() -> float:
        words = [sys.executable, str(_HERE / "peak_memory.py"), str(megabytes)]
        return int(subprocess.run(words, capture_output=True, text=True, check=True).stdout) / 1e6

    return compare(
        f"{megabytes} MB: memory on top, against the state",
        on_top,
        lambda: float(megabytes),
        pairs=pairs,
        unit="MB",
        warm_up=False,
        at_most=1.2,
    )


def _frozen(folder: Path) -> Comparison:
    study = StateStudy(f"sqlite:///{folder}/study.db", _MEGABYTES, frozen=0.9)
    study.save()

    def added() -> float:
        before = _stored(study, folder)
        study.change()
        snapshot = study.capture()
        study.store.save(snapshot, number=0, fence=1)
        return (_stored(study, folder) - before) / 1e6

    found = compare(
        f"{_MEGABYTES} MB, 90 % frozen: new bytes, against changed ones",
        added,
        lambda: study.num_changing / 1e6,
        pairs=3,
        unit="MB",
        at_most=1.05,
    )
    study.close()
    return found


def _stored(study: StateStudy, folder: Path) -> int:
    """What packs have allocated, and what is in rows [bytes]."""
    packs = sum(file.stat().st_blocks * 512 for file in folder.glob("study.db.packs/*"))
    with reading(study.engine) as connection:
        return packs + inventory.stored_bytes(connection, UUID).in_database


def _on_postgres(url: str, pairs: int) -> Comparison:
    study = StateStudy(url, _MEGABYTES)
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain) as connection:
        connection.execute("CREATE TABLE by_hand (seq INTEGER PRIMARY KEY, data BYTEA NOT NULL)")
        connection.commit()

        def ours() -> float:
            study.change()
            snapshot = study.capture()
            begun = perf_counter()
            study.store.save(snapshot, number=0, fence=1)
            took = perf_counter() - begun
            study.store.remove([info.checkpoint_id for info in study.store.infos(0)])
            return 1000 * took

        def by_hand() -> float:
            study.change()
            views = [memoryview(tensor.data).cast("B") for tensor in study.capture().tensors]
            rows = [view[at : at + _CHUNK_BYTES] for view in views for at in range(0, view.nbytes, _CHUNK_BYTES)]
            begun = perf_counter()
            with connection.cursor() as cursor:
                for seq, data in enumerate(rows):
                    cursor.execute("INSERT INTO by_hand VALUES (%s, %b)", (seq, data))
            connection.commit()
            took = perf_counter() - begun
            connection.execute("DELETE FROM by_hand")
            connection.commit()
            return 1000 * took

        found = compare(
            f"PostgreSQL, {_MEGABYTES} MB: durable, against bytea by hand",
            ours,
            by_hand,
            pairs=pairs,
            unit="ms",
            at_most=1.1,
        )
    study.close()
    return found
