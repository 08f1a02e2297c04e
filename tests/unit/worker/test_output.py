"""Captured output: all of it, once, in order, and nothing of what is not user code's."""

from __future__ import annotations

import io
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import redirect_stdout

import pytest
from sqlalchemy import Engine

from tests.unit.store.samples import claimed_study, open_ready
from tunesafe.contracts import Claim
from tunesafe.errors import StorageError
from tunesafe.store.engine import reading, writing
from tunesafe.store.logs import logs_of
from tunesafe.worker.output import Capture, stand_in


@pytest.fixture
def engine(sqlite_url: str) -> Iterator[Engine]:
    """An SQLite database with our tables."""
    engine = open_ready(sqlite_url)
    yield engine
    engine.dispose()


def stored(engine: Engine, uuid: str) -> str:
    """What the log of trial 0 holds."""
    with reading(engine) as connection:
        return "".join(chunk.text for chunk in logs_of(connection, uuid, 0))


def ship(engine: Engine, capture: Capture, claim: Claim, *, fail: bool = False) -> None:
    """One renewal of a lease, with the capture on board."""
    try:
        with writing(engine) as connection:
            capture.board(connection, claim)
            if fail:
                raise StorageError("the commit failed")
    except StorageError:
        return
    capture.arrived()


def test_what_is_printed_is_echoed_by_line_and_stored_as_it_was(engine: Engine) -> None:
    """Both streams, in order; a line without end is echoed at the end of the capture."""
    uuid, claim = claimed_study(engine)
    lines: list[str] = []
    capture = Capture(uuid, lines.append)
    with capture.capturing():
        print("one")
        print("two", file=sys.stderr)
        sys.stdout.write("thr")
        sys.stdout.flush()
        sys.stdout.write("ee\nfour")
    ship(engine, capture, claim)
    assert lines == ["one", "two", "three", "four"]
    assert stored(engine, uuid) == "one\ntwo\nthree\nfour\n"


def test_a_failed_commit_loses_nothing_and_repeats_nothing(engine: Engine) -> None:
    """What was on board rides again; what was printed meanwhile follows it."""
    uuid, claim = claimed_study(engine)
    capture = Capture(uuid, lambda line: None)
    with capture.capturing():
        print("one")
        ship(engine, capture, claim, fail=True)
        print("two")
        ship(engine, capture, claim)
        ship(engine, capture, claim)
        print("three")
        ship(engine, capture, claim)
    assert stored(engine, uuid) == "one\ntwo\nthree\n"


def test_text_printed_while_a_commit_is_under_way_is_not_forgotten(engine: Engine) -> None:
    """Only what was on board is dropped when it arrives."""
    uuid, claim = claimed_study(engine)
    capture = Capture(uuid, lambda line: None)
    with capture.capturing():
        print("one")
        with writing(engine) as connection:
            capture.board(connection, claim)
            print("two")
        capture.arrived()
        ship(engine, capture, claim)
    assert stored(engine, uuid) == "one\ntwo\n"


def test_what_tunesafe_says_itself_is_no_user_output() -> None:
    """An echo that prints goes to the real stream, and is not captured again."""
    real = io.StringIO()
    with redirect_stdout(real):
        capture = Capture("study", lambda line: print(f"| {line}"))
        with capture.capturing():
            print("user")
            with capture.suspended():
                print("tunesafe")
                assert capture.is_suspended
            assert not capture.is_suspended
    assert real.getvalue() == "| user\ntunesafe\n"


def test_another_thread_is_captured_while_one_is_suspended() -> None:
    """User code's threads go on printing while a notice is shown."""
    lines: list[str] = []
    with redirect_stdout(io.StringIO()):
        capture = Capture("study", lines.append)
        with capture.capturing(), capture.suspended():
            thread = threading.Thread(target=print, args=("from a thread",))
            thread.start()
            thread.join()
    assert lines == ["from a thread"]


def test_a_loaders_worker_prints_to_the_real_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """It inherits the capture in memory that nobody reads: what it keeps there would be lost."""
    real, lines = io.StringIO(), list[str]()
    with redirect_stdout(real), Capture("study", lines.append).capturing():
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: 1)
            print("from a child")
        print("from the parent")
    assert (real.getvalue(), lines) == ("from a child\n", ["from the parent"])


def test_a_captured_stream_still_looks_like_one() -> None:
    """Libraries ask for these before they print."""
    with Capture("study", lambda line: None).capturing():
        assert sys.stdout.writable()
        assert not sys.stdout.isatty()
        assert sys.stdout.encoding.lower().startswith("utf")
        assert sys.stdout.write("text") == 4


def test_a_logging_handler_older_than_the_trial_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that sets up logging while it is imported keeps the stream it finds then."""
    real, lines = io.StringIO(), list[str]()
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "stderr", real)
    stand_in()
    handler = logging.StreamHandler()
    handler.emit(logging.makeLogRecord({"msg": "before"}))
    with Capture("study", lines.append).capturing():
        handler.emit(logging.makeLogRecord({"msg": "during"}))
    handler.emit(logging.makeLogRecord({"msg": "after"}))
    assert lines == ["during"]
    assert real.getvalue() == "before\nafter\n"
