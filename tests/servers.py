"""Database servers of a test's own: on loopback, in a temporary folder, killed and started again as it likes."""

from __future__ import annotations

import os
import random
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from sqlalchemy import NullPool, create_engine
from sqlalchemy.exc import OperationalError

__all__ = ["PASSWORD", "MissingServerError", "Server", "free_port", "mariadb", "postgres"]

PASSWORD = "hush-hush"
"""In every address, though nobody asks for it: no message may show it."""
LIMIT_SECONDS = 100
_LOWEST_PORT = 10_000


class MissingServerError(Exception):
    """The server's programs are not installed."""


class Server:
    """One server.

    Args:
        command: Starts it in the foreground.
        url: Of an empty database on it.
        log: Where it writes what it has to say.
    """

    def __init__(self, command: Sequence[str], url: str, log: Path) -> None:
        self.url = url
        self._command, self._log = command, log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + LIMIT_SECONDS
        while not self._answers():
            assert self._process.poll() is None, f"the server ended:\n{self._log.read_text()[-2000:]}"
            assert time.monotonic() < deadline, f"the server does not answer:\n{self._log.read_text()[-2000:]}"
            time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL, to it and to the processes it has started; returns when all are gone."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGSTOP)  # it starts no more of them while they are looked up
        children = [os.pidfd_open(child) for child in _children(self._process.pid)]
        self._process.kill()
        for child in children:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(child, signal.SIGKILL)
        self._process.wait()
        for child in children:  # PostgreSQL does not start while one of them holds its shared memory
            assert select.select([child], [], [], LIMIT_SECONDS)[0], "a server's process survives SIGKILL"
            os.close(child)
        self._process = None

    def _answers(self) -> bool:
        engine = create_engine(self.url, poolclass=NullPool, connect_args={"connect_timeout": 5})
        try:
            engine.connect().close()
        except OperationalError:
            return False
        return True


@contextmanager
def postgres() -> Iterator[Server]:
    """A PostgreSQL of its own.

    Raises:
        MissingServerError: If it is not installed.
    """
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    found = programs[-1].parent if programs else Path(_find("initdb")).parent
    with _folder("postgres") as (folder, as_user):
        data, port = folder / "data", free_port()
        initdb = [
            found / "initdb",
            "-D",
            data,
            "-U",
            "postgres",
            "-A",
            "trust",
            "--no-sync",
            "-E",
            "UTF8",
            "--locale=C",
        ]
        _run([*as_user, *map(str, initdb)])
        # What SIGKILL leaves in the page cache is not lost: waiting for the disk would prove nothing here.
        options = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": folder, "fsync": "off"}
        command = [*as_user, str(found / "postgres"), "-D", str(data)]
        command += [word for key, value in options.items() for word in ("-c", f"{key}={value}")]
        with _running(command, f"postgresql://postgres:{PASSWORD}@127.0.0.1:{port}/postgres", folder) as server:
            yield server


@contextmanager
def mariadb() -> Iterator[Server]:
    """A MariaDB of its own.

    Raises:
        MissingServerError: If it is not installed.
    """
    daemon, install = _find("mariadbd"), _find("mariadb-install-db")
    with _folder("mysql") as (folder, as_user):
        data, port = folder / "data", free_port()
        _run([*as_user, install, "--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal"])
        init = folder / "init.sql"
        init.write_text(
            "CREATE DATABASE IF NOT EXISTS tunes;\n"
            f"CREATE USER IF NOT EXISTS tuner@'127.0.0.1' IDENTIFIED BY '{PASSWORD}';\n"
            "GRANT ALL ON *.* TO tuner@'127.0.0.1';\n"
        )
        init.chmod(0o644)
        options = {
            "datadir": data,
            "socket": folder / "socket",
            "pid-file": folder / "pid",
            "bind-address": "127.0.0.1",
            "port": port,
            "init-file": init,
            "innodb-flush-log-at-trx-commit": 2,
            "innodb-buffer-pool-size": "64M",
        }
        command = [*as_user, daemon, "--no-defaults", "--skip-name-resolve"]
        command += [f"--{key}={value}" for key, value in options.items()]
        with _running(command, f"mysql+pymysql://tuner:{PASSWORD}@127.0.0.1:{port}/tunes", folder) as server:
            yield server


@contextmanager
def _running(command: Sequence[str], url: str, folder: Path) -> Iterator[Server]:
    server = Server(command, url, folder / "server.log")
    try:
        server.start()
        yield server
    finally:
        server.kill()


@contextmanager
def _folder(user: str) -> Iterator[tuple[Path, list[str]]]:
    """A folder the server may write to, and the words before a command that it runs: servers refuse to be root."""
    folder = Path(tempfile.mkdtemp(prefix="tunesafe-server-"))
    as_user: list[str] = []
    if os.getuid() == 0:
        shutil.chown(folder, user, user)
        as_user = [_find("setpriv"), f"--reuid={user}", f"--regid={user}", "--clear-groups", "--pdeathsig=KILL"]
    try:
        yield folder, as_user
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _find(program: str) -> str:
    found = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        raise MissingServerError(f"{program} is not installed")
    return found


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def free_port() -> int:
    """A port on which nobody listens, and which nobody is given while the server is down.

    Not one of those the kernel hands out: a client that tries again and again to reach such a port on its own host
    is one day given it for its own end, and talks to itself.
    """
    lowest_given = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.SystemRandom().randrange(_LOWEST_PORT, max(lowest_given, _LOWEST_PORT + 1_000))
        with socket.socket() as taken, suppress(OSError):
            taken.bind(("127.0.0.1", port))
            return port


def _children(pid: int) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            _, parent, *_ = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
            if int(parent) == pid:
                found.append(int(folder.name))
    return found
