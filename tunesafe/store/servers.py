"""Connections to a database server that never wait for ever, at neither end.

A network that swallows what is sent looks like a server that thinks. A driver left to itself then
waits until the kernel gives up, a quarter of an hour later, or not at all if a proxy still
acknowledges; and the server keeps the locks of a client it no longer hears, for hours. So silence
has a limit at both ends, and a statement waits less than that for other transactions' locks: an
honest wait ends in an answer. What is given up too early is only done again.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import URL

from tunesafe.store.postgres import connector

__all__ = ["lock_seconds", "server_kwargs"]

_CONNECT_SECONDS = 10
"""How long to wait for a server to accept a connection [seconds]."""
_SILENCE_SECONDS = 30
"""How long a server may leave a statement unanswered, or a client its transaction unfinished [seconds]."""
_LOCK_SECONDS = 20
"""How long a statement waits for other transactions' locks [seconds]; less than silence may last."""
_FORGET_SECONDS = 600
"""After how long MySQL may close a connection that nothing is asked of [seconds]: pools notice, and connect again."""


def lock_seconds() -> int:
    """How long a statement may wait for other transactions' locks [seconds]."""
    return _LOCK_SECONDS


def server_kwargs(url: URL) -> dict[str, Any]:
    """Arguments for ``create_engine``; what the address itself says of a connection goes before them.

    Args:
        url: Canonical, of a server.

    Raises:
        ModuleNotFoundError: If the driver is not installed.
    """
    if url.get_backend_name() == "postgresql":
        creator = connector(
            url, connect_seconds=_CONNECT_SECONDS, silence_seconds=_SILENCE_SECONDS, lock_seconds=_LOCK_SECONDS
        )
        return {"creator": creator, "pool_pre_ping": True}
    return {"connect_args": _mysql_arguments(url), "pool_pre_ping": True}


def _mysql_arguments(url: URL) -> dict[str, Any]:
    # In a comment that only MariaDB reads: MySQL has no limit for transactions alone.
    settings = (
        f"SET SESSION innodb_lock_wait_timeout = {_LOCK_SECONDS}, lock_wait_timeout = {_LOCK_SECONDS}, "
        f"wait_timeout = {_FORGET_SECONDS} /*M!100300 , idle_transaction_timeout = {_SILENCE_SECONDS} */"
    )
    arguments = {
        "connect_timeout": _CONNECT_SECONDS,
        "read_timeout": _SILENCE_SECONDS,
        "write_timeout": _SILENCE_SECONDS,
        "init_command": settings,
    }
    return {name: value for name, value in arguments.items() if name not in url.query}
