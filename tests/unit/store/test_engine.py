from __future__ import annotations

import sqlite3
import sys
import threading
import time
from pathlib import Path

import pytest
from sqlalchemy import URL, Engine, create_engine

from tests.unit.store.samples import new_study, open_ready
from tunesafe.errors import MissingExtraError, SpecError, StorageError
from tunesafe.store import studies
from tunesafe.store.engine import (
    apply_pragmas,
    connect_kwargs,
    database_now,
    open_engine,
    read_only_engine,
    reading,
    writing,
)
from tunesafe.store.faults import TransientStorageError


def pragma(engine: Engine, name: str) -> object:
    """What SQLite has set on a connection of this engine."""
    with reading(engine) as connection:
        return connection.exec_driver_sql(f"PRAGMA {name}").scalar()


def test_sqlite_is_durable_and_patient(engine: Engine) -> None:
    """WAL, FULL, and a minute's wait for the write lock."""
    assert (pragma(engine, "journal_mode"), pragma(engine, "synchronous")) == ("wal", 2)
    assert pragma(engine, "busy_timeout") == 60_000


def test_an_engine_of_optuna_gets_the_same_settings(sqlite_url: str) -> None:
    """``connect_kwargs`` and ``apply_pragmas`` are all it takes."""
    engine = create_engine(sqlite_url, **connect_kwargs(sqlite_url))
    apply_pragmas(engine)
    assert (pragma(engine, "journal_mode"), pragma(engine, "busy_timeout")) == ("wal", 60_000)
    engine.dispose()


def test_opening_creates_nothing(sqlite_url: str, tmp_path: Path) -> None:
    """A file appears with the first transaction, not before."""
    open_engine(sqlite_url).dispose()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [("no/such/x.db", None, "does not exist"), ("text.db", b"hello", "not a SQLite database"), (".", None, "folder")],
)
def test_what_cannot_be_a_database_is_refused_untouched(
    tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    """A missing folder, another file, a folder: usage errors, nothing created or changed."""
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SpecError, match=said):
        open_engine(f"sqlite:///{path}")
    assert sorted(tmp_path.rglob("*")) == before
    assert content is None or path.read_bytes() == content


def test_a_reader_creates_no_database(sqlite_url: str, tmp_path: Path) -> None:
    """A missing study is an error that says what to do, not an empty file."""
    with pytest.raises(StorageError, match=r"(?s)no database .*tunesafe run"):
        read_only_engine(sqlite_url)
    assert not list(tmp_path.iterdir())


def test_a_reader_cannot_write_and_sees_what_is_committed(engine: Engine, sqlite_url: str) -> None:
    """Beside a live writer."""
    with writing(engine) as connection:
        new_study(connection, name="digits")
    reader = read_only_engine(sqlite_url)
    with reading(reader) as connection:
        assert studies.study_names(connection) == ["digits"]
    with pytest.raises(StorageError, match="cannot be written"), writing(reader) as connection:
        new_study(connection)
    reader.dispose()


def test_a_reader_needs_no_writable_folder(engine: Engine, sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where SQLite cannot put its shared memory beside the file, the file alone is read."""
    with writing(engine) as connection:
        new_study(connection, name="digits")
    engine.dispose()
    connect = sqlite3.connect

    def refusing(address: str, **options: object) -> sqlite3.Connection:
        return connect(address if "immutable" in address else "file:/no/such/file?mode=rw", **options)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr(sqlite3, "connect", refusing)
    reader = read_only_engine(sqlite_url)
    with reading(reader) as connection:
        assert studies.study_names(connection) == ["digits"]
    reader.dispose()


def test_a_path_may_hold_any_character(tmp_path: Path) -> None:
    """Hashes, blanks and percent signs are part of names."""
    path = tmp_path / "a b%20#ü.db"
    url = URL.create("sqlite", database=str(path)).render_as_string()
    open_ready(url).dispose()
    assert path.exists()
    reader = read_only_engine(url)
    with reading(reader) as connection:
        assert studies.study_names(connection) == []
    reader.dispose()


def test_a_block_that_raises_leaves_nothing(engine: Engine) -> None:
    """A transaction is whole or not at all."""

    def write_and_raise() -> None:
        with writing(engine) as connection:
            new_study(connection, name="digits")
            raise KeyError

    with pytest.raises(KeyError):
        write_and_raise()
    with reading(engine) as connection:
        assert studies.study_names(connection) == []


def test_writers_wait_for_each_other_from_the_start(engine: Engine) -> None:
    """A transaction that reads first cannot lose the write lock to another before it writes."""
    steps: list[str] = []
    inside = threading.Event()

    def second() -> None:
        inside.wait(30)
        with writing(engine) as connection:
            steps.append("second")
            new_study(connection)

    thread = threading.Thread(target=second)
    thread.start()
    with writing(engine) as connection:
        database_now(connection)
        inside.set()
        thread.join(0.05)
        new_study(connection)
        steps.append("first")
    thread.join(30)
    assert steps == ["first", "second"]


def test_a_lock_that_is_not_given_back_is_said_to_be_locked(engine: Engine, sqlite_url: str) -> None:
    """With the advice, and as something that passes."""
    impatient = open_engine(sqlite_url)
    with reading(impatient) as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout = 1")
    with (
        writing(engine),
        pytest.raises(TransientStorageError, match=r"(?s)is locked.*wrote nothing"),
        writing(impatient),
    ):
        pass
    impatient.dispose()


def test_a_full_disk_is_said_to_be_full_and_leaves_the_study_intact(engine: Engine) -> None:
    """A real SQLITE_FULL in the middle of a transaction; with space again the same step succeeds."""
    with writing(engine) as connection:
        study = new_study(connection)
    with reading(engine) as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StorageError, match=r"(?s)no space left.*Free some space"), writing(engine) as connection:
        studies.save_sources(connection, study, "f", {"a.py": "x" * 100_000})
    with reading(engine) as connection:
        assert studies.load_sources(connection, study, "f") == {}
        connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
    with writing(engine) as connection:
        studies.save_sources(connection, study, "f", {"a.py": "x" * 100_000})


def test_the_databases_clock_is_the_time(engine: Engine) -> None:
    """Seconds since the epoch, with a fraction."""
    before = time.time()
    with reading(engine) as connection:
        now = database_now(connection)
    assert before - 0.01 <= now <= time.time() + 0.01


@pytest.mark.parametrize(
    ("url", "module", "extra"), [("postgres://h/d", "psycopg", "postgres"), ("mysql://h/d", "pymysql", "mysql")]
)
def test_a_missing_driver_names_its_extra(monkeypatch: pytest.MonkeyPatch, url: str, module: str, extra: str) -> None:
    """One line: what to install."""
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'tunesafe\[{extra}\]'"):
        open_engine(url)


@pytest.mark.parametrize("url", ["postgres://me:secret@127.0.0.1:1/d", "mysql://me:secret@127.0.0.1:1/d"])
def test_a_server_that_does_not_answer_is_named_without_its_password(url: str) -> None:
    """And the error passes: the server may come back."""
    pytest.importorskip({"p": "psycopg", "m": "pymysql"}[url[0]])
    with pytest.raises(TransientStorageError, match="cannot be reached") as unreachable:
        open_engine(url)
    assert "secret" not in str(unreachable.value)
