"""A network on loopback that can swallow what is sent over it, without a word to either end."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum

from sqlalchemy import URL, make_url

__all__ = ["Network", "Swallowed", "network_to"]


class Swallowed(Enum):
    """What a network swallows."""

    ALL = "all"
    ANSWERS = "answers"
    """What is asked arrives and is done; only the answers are gone."""


@dataclass(eq=False)
class _Line:
    """One connection through the network; ``forgotten`` for good by what is in between, as by a restarted router."""

    client: socket.socket
    server: socket.socket | None = None
    forgotten: bool = False


@dataclass(eq=False)
class Network:
    """A proxy before one server.

    Args:
        target: Host and port of the server.
    """

    target: tuple[str, int]
    num_swallowed: int = 0
    """How often it began to swallow."""
    _swallows: Swallowed | None = None
    _closing: bool = False
    _lines: list[_Line] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self._listener.getsockname()[1]
        return port

    def swallow(self, what: Swallowed = Swallowed.ALL) -> None:
        """Forward nothing from now on; nobody is told, and connections are accepted as ever."""
        with self._changed:
            self._swallows = what
            self.num_swallowed += 1

    def restore(self, *, late: bool) -> None:
        """Forward again.

        Args:
            late: What was swallowed arrives now, whoever still waits for it; otherwise the connections that there
                are stay silent for ever, and neither end learns that the other has closed them.
        """
        with self._changed:
            if not late and self._swallows is not None:
                for line in self._lines:
                    line.forgotten = True
            self._swallows = None
            self._changed.notify_all()

    def close(self) -> None:
        """End it, and with it every connection."""
        with self._changed:
            self._closing, self._swallows = True, None
            self._changed.notify_all()
        self._listener.close()
        for line in self._lines:
            for end in (line.client, line.server):
                if end is not None:
                    with suppress(OSError):
                        end.shutdown(socket.SHUT_RDWR)
                    end.close()

    def serve(self) -> None:
        """Accept connections until it is closed."""
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            line = _Line(client)
            with self._changed:
                self._lines.append(line)
            threading.Thread(target=self._connect, args=(line,), daemon=True).start()

    def _connect(self, line: _Line) -> None:
        if not self._passes(line, is_answer=False):
            return
        try:
            line.server = socket.create_connection(self.target)
        except OSError:  # the server is down: whoever connects hears that
            line.client.close()
            return
        for end in (line.client, line.server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        answers = threading.Thread(target=self._forward, args=(line, line.server, line.client, True), daemon=True)
        answers.start()
        self._forward(line, line.client, line.server, False)

    def _forward(self, line: _Line, source: socket.socket, sink: socket.socket, is_answer: bool) -> None:
        with suppress(OSError):
            while True:
                data = source.recv(1 << 16)
                if self._passes(line, is_answer=is_answer):
                    if not data:
                        sink.shutdown(socket.SHUT_WR)
                        return
                    sink.sendall(data)
                elif not data:
                    return

    def _passes(self, line: _Line, *, is_answer: bool) -> bool:
        """Wait as long as nothing gets through in this direction; whether anything ever will."""
        swallowing = (Swallowed.ALL, Swallowed.ANSWERS) if is_answer else (Swallowed.ALL,)
        with self._changed:
            self._changed.wait_for(lambda: self._swallows not in swallowing)
            return not line.forgotten and not self._closing


@contextmanager
def network_to(url: str) -> Iterator[tuple[Network, str]]:
    """A network before a server, and the address of the same database through it."""
    server: URL = make_url(url)
    assert server.host is not None
    assert server.port is not None
    network = Network((server.host, server.port))
    threading.Thread(target=network.serve, daemon=True).start()
    try:
        yield network, server.set(host="127.0.0.1", port=network.port).render_as_string(hide_password=False)
    finally:
        network.close()
