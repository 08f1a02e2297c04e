"""Checkpoints beside the training loop: one in flight, in one memory, and no failure is lost."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator

import pytest

from tunesafe.errors import LeaseLostError, Preempted, StorageError
from tunesafe.trial.preemption import SignalWatch
from tunesafe.worker.writing import CheckpointWriter

LIMIT = 30.0


class Slow:
    """A write that begins, and ends when it is told to."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.begun, self.may_end, self.ended = threading.Event(), threading.Event(), threading.Event()
        self.error = error

    def __call__(self) -> None:
        self.begun.set()
        assert self.may_end.wait(LIMIT)
        self.ended.set()
        if self.error is not None:
            raise self.error


@pytest.fixture
def slow() -> Iterator[Slow]:
    """A write that does not outlive the test."""
    write = Slow()
    yield write
    write.may_end.set()


def fail(error: BaseException) -> None:
    """A write that goes wrong."""
    raise error


def address(memory: memoryview) -> int:
    """Where it is."""
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def test_the_loop_goes_on_while_a_checkpoint_is_written_and_waits_with_the_next(slow: Slow) -> None:
    """Back-pressure: neither its memory nor its turn is given to the next one."""
    order = []
    with CheckpointWriter(SignalWatch()) as writer:
        writer.submit(slow)
        assert slow.begun.wait(LIMIT)
        assert not slow.ended.is_set()
        thread = threading.Thread(target=lambda: (writer.memory(10), order.append(slow.ended.is_set())))
        thread.start()
        slow.may_end.set()
        thread.join(LIMIT)
        assert order == [True]


def test_the_same_memory_is_given_out_again_unless_it_is_too_small() -> None:
    """No page is touched for the first time twice; all of it is aligned for any kind of number."""
    with CheckpointWriter(SignalWatch()) as writer:
        first = address(writer.memory(100_000))
        assert address(writer.memory(50_000)) == address(writer.memory(100_000)) == first
        large = writer.memory(10_000_000)
        assert large.nbytes >= 10_000_000
        assert not large.readonly
        assert address(large) % 4096 == first % 4096 == 0


def test_all_is_durable_when_the_block_has_ended(slow: Slow) -> None:
    """An outcome is recorded only after the checkpoint it names."""
    with CheckpointWriter(SignalWatch()) as writer:
        writer.submit(slow)
        threading.Timer(0.0, slow.may_end.set).start()
    assert slow.ended.is_set()


@pytest.mark.parametrize("error", [StorageError("the disk is full"), LeaseLostError("another worker has it")])
def test_a_failure_is_raised_in_the_loop_and_stays(error: Exception) -> None:
    """At the next report, at the next checkpoint, and at the end: nobody can go on as if it had been written."""
    writer = CheckpointWriter(SignalWatch())
    with pytest.raises(type(error)), writer:  # noqa: PT012 - each of these raises it
        writer.submit(lambda: fail(error))
        for again in (lambda: writer.memory(1), lambda: writer.submit(lambda: None), writer.check):
            with pytest.raises(type(error)):
                again()


def test_a_failure_at_the_very_end_is_raised_at_the_end() -> None:
    """Also where the trial leaves because it was asked to: what it says is saved is not."""
    with pytest.raises(StorageError), CheckpointWriter(SignalWatch()) as writer:
        writer.submit(lambda: fail(StorageError("full")))
    with pytest.raises(StorageError), CheckpointWriter(SignalWatch()) as writer:  # noqa: PT012
        writer.submit(lambda: fail(StorageError("full")))
        raise Preempted("SIGTERM")


def test_another_error_on_its_way_is_not_replaced() -> None:
    """Of two failures the one that ended the attempt counts."""
    with pytest.raises(LeaseLostError), CheckpointWriter(SignalWatch()) as writer:  # noqa: PT012
        writer.submit(lambda: fail(StorageError("full")))
        raise LeaseLostError("lost")


def test_a_second_signal_waits_for_nothing(slow: Slow) -> None:
    """A death like any other: what is in flight is lost, what was durable is there."""
    signals = SignalWatch()
    with pytest.raises(Preempted), CheckpointWriter(signals) as writer:  # noqa: PT012
        writer.submit(slow)
        assert slow.begun.wait(LIMIT)
        signals.urgent = True
        raise Preempted("SIGTERM, twice")
    assert not slow.ended.is_set()


class RudeHandlerError(Exception):
    """What a user's own signal handler may raise, wherever the loop is."""


def test_a_handler_that_raises_while_the_loop_waits_does_not_end_the_wait(slow: Slow) -> None:
    """The memory of a checkpoint that is still being written is not given out again."""

    def raise_it(*arguments: object) -> None:
        raise RudeHandlerError

    before = signal.signal(signal.SIGALRM, raise_it)
    try:
        with CheckpointWriter(SignalWatch()) as writer:
            writer.submit(slow)
            with pytest.raises(RudeHandlerError):  # noqa: PT012 - the signal may come before the wait
                signal.setitimer(signal.ITIMER_REAL, 0.05)
                writer.memory(10)
            threading.Timer(0.05, slow.may_end.set).start()
            writer.memory(10)
            assert slow.ended.is_set()
    finally:
        signal.signal(signal.SIGALRM, before)


def test_what_is_no_error_of_ours_becomes_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread, no memory: the attempt ends without an outcome, and it is not user code that failed."""
    with pytest.raises(StorageError, match="MemoryError"), CheckpointWriter(SignalWatch()) as writer:
        writer.submit(lambda: fail(MemoryError("no room")))

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(StorageError, match="can't start new thread"), CheckpointWriter(SignalWatch()) as writer:
        writer.submit(lambda: None)


FORK = """
import os
from tunesafe.trial.preemption import SignalWatch
from tunesafe.worker.writing import CheckpointWriter
memory = CheckpointWriter(SignalWatch()).memory(1 << 20)
memory[:4] = b"mine"
child = os.fork()
if child == 0:
    os._exit(bytes(memory[:4]) != bytes(4))
assert os.waitpid(child, 0)[1] == 0, "the child has a copy"
assert memory[:4] == b"mine"
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can leave memory out of a fork")
def test_a_forked_loader_has_no_copy_of_the_snapshots_memory() -> None:
    """Otherwise every page of it would be copied once more while the loader lives; the place itself stays taken."""
    subprocess.run([sys.executable, "-c", FORK], check=True, timeout=200)


def test_the_memory_of_a_trial_goes_with_it_and_not_when_python_collects() -> None:
    """An exception keeps everything that was there when it was raised in a circle."""
    with CheckpointWriter(SignalWatch()) as writer:
        memory = weakref.ref(writer.memory(1 << 20).obj)
        assert memory() is not None
    assert memory() is None
