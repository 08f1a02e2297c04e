"""The thread that keeps a second place up to date: what fails there is told, tried again, and stops nothing."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.study.studies import opened
from tunesafe.contracts import Event, Notice
from tunesafe.errors import DamagedError, StorageError
from tunesafe.executors.second_place import SecondPlace
from tunesafe.store import backups
from tunesafe.store.backup_state import backups_beside
from tunesafe.store.depots import DepotError
from tunesafe.store.engine import reading
from tunesafe.store.events import events_of
from tunesafe.store.folders import FolderDepot
from tunesafe.study.opening import OpenStudy
from tunesafe.trial.preemption import SignalWatch

LIMIT_SECONDS = 60


class Watched:
    """What was told, and waiting for it."""

    def __init__(self) -> None:
        self.told: list[Notice] = []
        self._changed = threading.Condition()

    def __call__(self, notice: Notice) -> None:
        """Take a notice."""
        with self._changed:
            self.told.append(notice)
            self._changed.notify_all()

    @property
    def kinds(self) -> list[str]:
        """Kinds of events, in order."""
        return [str(notice.details["event"]) for notice in self.told]

    def wait_for(self, kind: str) -> None:
        """Until this was told."""
        with self._changed:
            assert self._changed.wait_for(lambda: kind in self.kinds, LIMIT_SECONDS), self.told


@pytest.fixture(autouse=True)
def a_slow_disk_is_no_news(monkeypatch: pytest.MonkeyPatch) -> None:
    """That a last copy takes its time would be told as well, wherever a machine is busy."""
    monkeypatch.setattr("tunesafe.executors.second_place._WORTH_TELLING_SECONDS", 2.0 * LIMIT_SECONDS)


@pytest.fixture
def watched() -> Watched:
    """Somebody to tell."""
    return Watched()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A second place that is not there yet."""
    return tmp_path / "place"


def pointer_of(place: Path) -> backups.Pointer:
    """What the place says."""
    found = backups.look_up(FolderDepot(place))
    assert found is not None
    return found[0]


def kept(study: OpenStudy) -> list[Event]:
    """Events about the second place in the database."""
    with reading(study.engine) as connection:
        return [event for event in events_of(connection, study.row.uuid) if event.kind.startswith("backup_")]


def test_the_end_of_the_block_is_a_last_copy(sqlite_url: str, place: Path, watched: Watched) -> None:
    """However long the next one is away; and what changed after it began is in it."""
    with opened(sqlite_url, backup={"url": str(place), "every": "1d"}) as study:
        with SignalWatch() as signals, SecondPlace(study, signals, watched):
            deadline = time.monotonic() + LIMIT_SECONDS
            while not (place / backups.POINTER).exists():
                assert time.monotonic() < deadline
                time.sleep(0.01)
            with study.engine.begin() as connection:
                connection.exec_driver_sql("CREATE TABLE later (x INTEGER)")
        assert pointer_of(place).generation == 2
        assert watched.told == []
        folder = backups_beside(study.engine.url, study.row.uuid)
        assert folder is not None
        state = folder.state()
        assert state is not None
        assert (state.generation, state.failing_since, state.lost) == (2, None, False)


def test_without_the_key_nothing_is_done(sqlite_url: str, tmp_path: Path, watched: Watched) -> None:
    """No thread, no file."""
    with opened(sqlite_url) as study, SignalWatch() as signals, SecondPlace(study, signals, watched):
        assert not [thread for thread in threading.enumerate() if thread.name == "tunesafe-backup"]
    assert list(tmp_path.glob("*.backup")) == []


@pytest.mark.parametrize(
    "error",
    [DepotError("the place is away"), StorageError("locked"), OSError("disk"), KeyError("a surprise")],
    ids=repr,
)
def test_a_failure_is_told_once_and_so_is_its_end(
    error: Exception, sqlite_url: str, place: Path, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tried again until it works; both are kept in the database."""
    monkeypatch.setattr("tunesafe.executors.second_place._FIRST_PAUSE_SECONDS", 0.001)
    left = [error] * 4
    look = backups.look_up

    def failing(depot: object) -> object:
        if left:
            raise left.pop()
        return look(depot)  # type: ignore[arg-type]

    monkeypatch.setattr(backups, "look_up", failing)
    with opened(sqlite_url, backup={"url": str(place), "every": 0.01}) as study:
        with SignalWatch() as signals, SecondPlace(study, signals, watched):
            watched.wait_for("backup_back")
        assert watched.kinds == ["backup_failed", "backup_back"]
        assert [event.kind for event in kept(study)] == ["backup_begun", "backup_failed", "backup_back"]
        assert str(error) in str(watched.told[0].details["why"])
    assert pointer_of(place).generation >= 1


def test_a_place_that_belongs_to_another_is_left_alone(sqlite_url: str, place: Path, watched: Watched) -> None:
    """Told in every run, kept once; the study goes on."""
    for turn in (1, 2):
        with opened(sqlite_url, backup={"url": str(place), "every": 0.01}) as study:
            if turn == 1:
                with SignalWatch() as signals, SecondPlace(study, signals, watched):
                    pass
                taken = pointer_of(place).to_bytes().replace(pointer_of(place).owner.encode(), b"another")
                (place / backups.POINTER).write_bytes(taken)
            with SignalWatch() as signals, SecondPlace(study, signals, watched):
                watched.wait_for("backup_lost")
            watched.told.clear()
            assert [event.kind for event in kept(study)] == ["backup_begun", "backup_lost"]
            folder = backups_beside(study.engine.url, study.row.uuid)
            assert folder is not None
            state = folder.state()
            assert state is not None
            assert state.lost
    assert (place / backups.POINTER).read_bytes() == taken


def test_a_place_that_is_given_back_is_copied_to_again(sqlite_url: str, place: Path, watched: Watched) -> None:
    """A restore somewhere else that failed leaves nothing behind; the machine it came from has gone on looking."""
    with opened(sqlite_url, backup={"url": str(place), "every": 0.01}) as study:
        with SignalWatch() as signals, SecondPlace(study, signals, watched):
            pass
        own = pointer_of(place)
        (place / backups.POINTER).write_bytes(replace(own, generation=2, owner="another").to_bytes())
        with SignalWatch() as signals, SecondPlace(study, signals, watched):
            watched.wait_for("backup_lost")
            give_back(place, replace(own, generation=3))
            watched.wait_for("backup_back")
        assert watched.kinds == ["backup_lost", "backup_back"]
        assert [event.kind for event in kept(study)] == ["backup_begun", *watched.kinds]
        folder = backups_beside(study.engine.url, study.row.uuid)
        assert folder is not None
        state = folder.state()
        assert state is not None
        assert (state.lost, state.failing_since) == (False, None)
    assert pointer_of(place).owner == own.owner


def test_what_never_passes_does_not_keep_the_end_waiting_and_is_told(
    sqlite_url: str, place: Path, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A damaged row is one: the copy before stays, and the end of the run says so."""

    def failing(depot: object) -> object:
        raise DamagedError("a row is damaged")

    monkeypatch.setattr(backups, "look_up", failing)
    with opened(sqlite_url, backup={"url": str(place), "every": "1d"}, storage_timeout="1d") as study:
        with SignalWatch() as signals, SecondPlace(study, signals, watched):
            watched.wait_for("backup_failed")
        assert watched.kinds == ["backup_failed", "backup_unfinished"]


def test_a_last_copy_that_takes_too_long_is_left_and_told(
    sqlite_url: str, place: Path, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a signal there is little time; who waits for a dead network is killed with the work undone."""
    monkeypatch.setattr("tunesafe.executors.second_place._LEAST_SECONDS", 0.05)
    over = threading.Event()
    monkeypatch.setattr(FolderDepot, "put", blocking(over))
    with opened(sqlite_url, backup=str(place), grace=0) as study:
        with SignalWatch() as signals, SecondPlace(study, signals, watched):
            signal.raise_signal(signal.SIGTERM)
        assert watched.kinds == ["backup_unfinished"]
        over.set()
        wait_for_the_thread()


def test_a_second_signal_waits_for_nothing(
    sqlite_url: str, place: Path, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It leaves at once, in mid-copy."""
    over = threading.Event()
    monkeypatch.setattr(FolderDepot, "put", blocking(over))
    with opened(sqlite_url, backup=str(place)) as study:
        with pytest.raises(KeyboardInterrupt), SignalWatch() as signals, SecondPlace(study, signals, watched):
            raise KeyboardInterrupt
        assert watched.told == []
        over.set()
        wait_for_the_thread()


def give_back(place: Path, pointer: backups.Pointer) -> None:
    """Write the pointer as a restore does: whoever looks at that moment finds one whole."""
    (place / "given back").write_bytes(pointer.to_bytes())
    (place / "given back").rename(place / backups.POINTER)


def blocking(over: threading.Event) -> Callable[..., None]:
    """An upload that takes until the test is over."""

    def put(self: FolderDepot, name: str, content: object) -> None:
        over.wait(LIMIT_SECONDS)
        raise DepotError("too late")

    return put


def wait_for_the_thread() -> None:
    """Until nothing is copied any more: the database is about to be closed."""
    for thread in threading.enumerate():
        if thread.name == "tunesafe-backup":
            thread.join(LIMIT_SECONDS)
            assert not thread.is_alive()
