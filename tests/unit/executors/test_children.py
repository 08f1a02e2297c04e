"""A worker process as its supervisor sees it, whatever it does to the pipes between them."""

from __future__ import annotations

import os
import queue
import select
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.unit.executors.stand_in import JOB, StandIn
from tunesafe.contracts import Notice
from tunesafe.executors.children import Child, Died, Heard
from tunesafe.worker.wire import LeftWork, Ready

Start = Callable[[str], "Ear"]


class Ear:
    """A child and what it says."""

    def __init__(self) -> None:
        self.inbox: queue.SimpleQueue[Heard | Died] = queue.SimpleQueue()
        self.child = Child.start(JOB, 1, self.inbox.put, fresh=True)

    def hear(self) -> Heard | Died:
        """The next thing."""
        return self.inbox.get(timeout=60)

    def hear_all(self) -> list[object]:
        """Every message until it has died."""
        messages: list[object] = []
        while isinstance(heard := self.hear(), Heard):
            messages.append(heard.message)
        return messages


@pytest.fixture
def start(stand_in: StandIn) -> Iterator[Start]:
    """Start a child that runs these lines."""
    ears: list[Ear] = []

    def begin(body: str) -> Ear:
        stand_in.write(body)
        ears.append(Ear())
        return ears[-1]

    yield begin
    for ear in ears:
        ear.child.kill("the test is over")
        ear.child.bury()


def test_what_a_worker_says_is_heard_in_order_and_then_its_end(start: Start) -> None:
    """Its last words before its end."""
    ear = start('say("Ready"); say("LeftWork", why="no work"); sys.exit(0)')
    assert ear.hear_all() == [Ready(), LeftWork("no work")]
    assert ear.child.bury() == "exit code 0"


def test_noise_and_messages_cut_short_are_no_messages(start: Start) -> None:
    """User code can write to any descriptor."""
    ear = start(
        r"""
raw(b"\x00\xff\n[1]\n{}\n3\n{\"type\": \"Notice\"}\n{\"type\": \"Ready\", \"x\": 1}\n" + b"[" * 100000 + b"\n")
raw(b'{"type": "LeftWo')
say("Ready")
raw(b'{"type": "Ready"}')
"""
    )
    assert ear.hear_all() == [Ready()]


def test_a_death_is_heard_although_a_fork_holds_the_pipe_open_and_takes_the_fork_along(
    start: Start, tmp_path: Path
) -> None:
    """A loader's worker, or whatever user code has started."""
    ear = start(
        """
child = os.fork()
if child == 0:
    time.sleep(600)
say("Notice", kind="forked", number=child, details={})
os.kill(os.getpid(), signal.SIGSEGV)
"""
    )
    [notice] = ear.hear_all()
    assert isinstance(notice, Notice)
    assert ear.child.bury() == "SIGSEGV"
    assert notice.number is not None
    wait_until_gone(notice.number)


def test_a_worker_that_closes_its_pipe_is_not_dead(start: Start, tmp_path: Path) -> None:
    """Only the kernel knows when a process has ended."""
    ear = start("os.close(job['messages']); assert sys.stdin.readline() == 'go\\n'; sys.exit(3)")
    with pytest.raises(queue.Empty):
        ear.inbox.get(timeout=0.3)
    ear.child.go()
    assert isinstance(ear.hear(), Died)
    assert ear.child.bury() == "exit code 3"


def test_a_worker_that_closes_everything_can_still_be_killed(start: Start) -> None:
    """Its end says who wanted it."""
    ear = start('say("Ready"); os.closerange(0, 100); time.sleep(600)')
    assert isinstance(ear.hear(), Heard)
    ear.child.leave("SIGTERM")
    ear.child.kill("no batch for 3 s")
    assert isinstance(ear.hear(), Died)
    assert ear.child.bury() == "no batch for 3 s"
    assert ear.child.was_killed_from_outside


@pytest.mark.parametrize(("last_words", "how"), [("sys.exit(3)", "exit code 3"), ("os.abort()", "SIGABRT")])
def test_an_end_is_seen_where_nobody_can_look_without_burying(
    last_words: str, how: str, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """macOS, before Python 3.13."""
    monkeypatch.delattr(os, "waitid")
    ear = start(f"os.close(job['messages']); assert sys.stdin.readline() == 'go\\n'; {last_words}")
    with pytest.raises(queue.Empty):
        ear.inbox.get(timeout=0.3)
    ear.child.go()
    assert isinstance(ear.hear(), Died)
    assert ear.child.cause_of_death() == how
    assert ear.child.bury() == how


def test_orders_to_the_dead_are_lost_quietly(start: Start) -> None:
    """Between its death and our hearing of it."""
    ear = start("pass")
    assert isinstance(ear.hear(), Died)
    ear.child.go()
    ear.child.leave("SIGTERM")
    ear.child.kill()
    assert ear.child.bury() == "exit code 0"


def test_a_worker_holds_a_trial_from_its_claim_to_its_end(start: Start) -> None:
    """And its silence counts only then."""
    child = start("pass").child
    assert not child.holds
    assert not child.silent_seconds
    child.note(Notice("claimed", 4, {"fence": 7}))
    assert child.holds == (4, 7)
    assert child.silent_seconds > 0
    child.note(Notice("released", 4, {}))
    assert not child.holds
    assert not child.silent_seconds


def test_a_worker_has_its_own_session_threads_and_path(start: Start) -> None:
    """Ctrl-C at the terminal is not for it; libraries get the threads that are settled."""
    ear = start(
        'say("Notice", kind=os.environ["OMP_NUM_THREADS"], number=os.getsid(0), details=job); sys.exit(0)',
    )
    [notice] = ear.hear_all()
    assert isinstance(notice, Notice)
    assert (notice.kind, notice.number) == ("1", ear.child.process.pid)
    assert notice.details["python_path"] == JOB.python_path


def wait_until_gone(pid: int) -> None:
    """Wait until a process that is not our child has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    assert select.select([descriptor], [], [], 60)[0], f"{pid} lives"
    os.close(descriptor)
