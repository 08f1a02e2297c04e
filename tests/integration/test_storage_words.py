"""What is said when a database cannot be used: enough to help, and never a password."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.integration.cli_project import STUDY, tunesafe, write_project
from tests.servers import PASSWORD

USAGE, STORAGE_FAILED = 2, 3


@pytest.fixture(scope="module")
def closed_port() -> Iterator[int]:
    """A port on which nobody listens, and nobody will meanwhile."""
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.mark.parametrize(
    "address",
    [
        "postgres://me:{password}@127.0.0.1:{port}/tunes",
        "mysql://me:{password}@127.0.0.1:{port}/tunes",
    ],
    ids=["postgres", "mysql"],
)
@pytest.mark.parametrize("command", ["run", "status"])
def test_an_unreachable_server_is_one_message_without_the_password(
    address: str, command: str, closed_port: int, tmp_path: Path
) -> None:
    """Exit 3; the address is shown with its password masked."""
    write_project(tmp_path, f"{STUDY}storage_timeout: 1s\n")
    url = address.format(password=PASSWORD, port=closed_port)
    arguments = ["run", "study.yaml", "--set", f"storage={url}"] if command == "run" else ["status", f"{url}#tiny"]
    said = tunesafe(*arguments, cwd=tmp_path)
    assert said.code == STORAGE_FAILED, said.err
    assert "cannot be reached" in said.err
    assert "***" in said.err
    assert PASSWORD not in said.err + said.out
    assert "Traceback" not in said.err


@pytest.mark.parametrize("kind", ["postgres", "mysql"])
def test_a_missing_driver_is_one_line_that_names_the_extra(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 2, whatever else is installed."""
    driver = {"postgres": "psycopg", "mysql": "pymysql"}[kind]
    write_project(tmp_path)
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules['{driver}'] = None\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    said = tunesafe("run", "study.yaml", "--set", f"storage={kind}://me:{PASSWORD}@127.0.0.1/tunes", cwd=tmp_path)
    assert said.code == USAGE, said.err
    assert f"tunesafe[{kind}]" in said.err
    assert PASSWORD not in said.err + said.out
    assert len(said.err.strip().splitlines()) <= 2


def test_a_refused_password_is_not_waited_for_and_not_shown(mariadb_url: str, tmp_path: Path) -> None:
    """The server answers: there is nothing to wait for."""
    from sqlalchemy import make_url

    write_project(tmp_path)
    url = make_url(mariadb_url).set(username="nobody-here", password=PASSWORD).render_as_string(hide_password=False)
    said = tunesafe("run", "study.yaml", "--set", f"storage={url}", cwd=tmp_path)
    assert said.code == STORAGE_FAILED, said.err
    assert "refused the connection" in said.err
    assert PASSWORD not in said.err + said.out
    assert "storage_timeout" not in said.err
