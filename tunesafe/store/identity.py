"""Which process this is, told apart from every other there ever was; and whether another is dead.

A lease only says when others may take a trial. On the same host we can know sooner: a process
whose pid is gone, or belongs to a process that started at another time, is dead for certain.
Every doubt counts as alive; the lease ends it.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import uuid
from contextlib import suppress
from functools import cache
from pathlib import Path

from tunesafe.contracts import Owner

__all__ = ["is_provably_dead", "is_zombie_of", "this_process"]

_STATE, _PARENT, _START_TIME = 0, 1, 19  # of /proc/PID/stat, after the command's name
_DEAD_STATES = {"Z", "X"}


def this_process() -> Owner:
    """The identity of the calling process, as leases carry it."""
    pid = os.getpid()
    stat = _stat(pid)
    return Owner(
        host=socket.gethostname(),
        machine_id=_machine_id(),
        boot_id=_boot_id(),
        pid_namespace=_pid_namespace(),
        pid=pid,
        started=int(stat[_START_TIME]) if stat else 0,
    )


def is_provably_dead(owner: Owner) -> bool:
    """Whether the process is gone beyond doubt: it lived on this host, in this boot, and is no more."""
    here = this_process()
    same_place = (owner.host, owner.machine_id, owner.boot_id, owner.pid_namespace) == (
        here.host,
        here.machine_id,
        here.boot_id,
        here.pid_namespace,
    )
    if not same_place or not owner.boot_id:
        return False
    stat = _stat(owner.pid)
    if stat:
        return stat[_STATE] in _DEAD_STATES or int(stat[_START_TIME]) != owner.started
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def is_zombie_of(owner: Owner, parent: int) -> bool:
    """Whether a process of this host has ended and its parent, of this process id, has not taken note of it yet."""
    stat = _stat(owner.pid)
    if not stat or int(stat[_START_TIME]) != owner.started:
        return False
    return stat[_STATE] == "Z" and int(stat[_PARENT]) == parent


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the command's name, which may itself hold spaces and brackets."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    return []


@cache
def _machine_id() -> str:
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        with suppress(OSError):
            if text := Path(path).read_text().strip():
                return text
    return f"{uuid.getnode():012x}"


@cache
def _boot_id() -> str:
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    if sys.platform == "darwin":
        with suppress(OSError, subprocess.SubprocessError):
            command = ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"]
            return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    return ""


# Not cached: a process may be moved into another namespace only by being forked there.
def _pid_namespace() -> str:
    with suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return sys.platform
