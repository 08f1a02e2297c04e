from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace

import pytest

from tunesafe.contracts import Owner
from tunesafe.store import identity
from tunesafe.store.identity import is_provably_dead, is_zombie_of, this_process

SAY_WHO = """
import json
from dataclasses import asdict
from tunesafe.store.identity import this_process
print(json.dumps(asdict(this_process())), flush=True)
input()
"""


@pytest.fixture
def child() -> subprocess.Popen[str]:
    """A process that says who it is and lives until its input ends."""
    return subprocess.Popen([sys.executable, "-c", SAY_WHO], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def owner_of(child: subprocess.Popen[str]) -> Owner:
    """The identity it said."""
    assert child.stdout is not None
    return Owner(**json.loads(child.stdout.readline()))


def test_a_process_knows_itself_and_that_it_lives() -> None:
    """The same at every call, and never dead."""
    assert this_process() == this_process()
    assert not is_provably_dead(this_process())


def test_a_process_is_alive_then_a_zombie_then_gone(child: subprocess.Popen[str]) -> None:
    """A killed child that nobody has waited for is dead already: it will never write again."""
    owner = owner_of(child)
    assert not is_provably_dead(owner)
    assert not is_zombie_of(owner, os.getpid())
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert is_provably_dead(owner)
    assert is_zombie_of(owner, os.getpid())
    assert not is_zombie_of(owner, os.getppid()), "its parent is another"
    child.communicate()
    assert is_provably_dead(owner)
    assert not is_zombie_of(owner, os.getpid())


def test_a_pid_that_belongs_to_another_process_now_proves_death() -> None:
    """The start time tells a process from its pid's next owner."""
    assert is_provably_dead(replace(this_process(), started=this_process().started + 1))


@pytest.mark.parametrize("elsewhere", ["host", "machine_id", "boot_id", "pid_namespace"])
def test_nothing_is_proved_about_another_place(elsewhere: str) -> None:
    """Another host, boot or container: a pid that is free here says nothing."""
    gone = replace(this_process(), pid=2**22 + 1)
    assert is_provably_dead(gone)
    assert not is_provably_dead(Owner(**(asdict(gone) | {elsewhere: "other"})))


def test_where_the_boot_is_unknown_nothing_is_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two machines without an identity must not look like one."""
    monkeypatch.setattr(identity, "_boot_id", lambda: "")
    assert not is_provably_dead(replace(this_process(), pid=2**22 + 1))


def test_without_proc_only_a_pid_that_is_free_proves_death(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS; a pid that may not be signalled belongs to somebody alive."""
    here = this_process()
    monkeypatch.setattr(identity, "_stat", lambda pid: [])
    assert not is_provably_dead(replace(here, started=0))
    assert is_provably_dead(replace(here, pid=2**22 + 1, started=0))

    def refuse(pid: int, signal: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    assert not is_provably_dead(replace(here, started=0))
