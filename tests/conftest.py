"""What every test may use: databases that vanish, one thread, and Hypothesis profiles.

A missing server skips the tests that need it; in CI (``CI`` set) it fails them, so that
a green run there means they ran. ``TUNESAFE_TEST_POSTGRES`` and ``TUNESAFE_TEST_MARIADB``
name other servers than the local ones; each test gets a database of its own on them.
"""

from __future__ import annotations

import importlib.util
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests import gcs_server, s3, servers

# Before anything imports numpy or torch, here and in the processes that tests start: two threads or
# one give different bits, and tests share two cores. A failpoint left in the shell would kill the test run.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_variable] = "1"
for _variable in [name for name in os.environ if name.startswith("TUNESAFE_FAILPOINT")]:
    del os.environ[_variable]

_IN_CI = os.environ.get("CI", "").lower() not in ("", "0", "false")

# No deadline and no health check that reads a clock: a loaded machine is not a failure.
settings.register_profile("local", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("local"), derandomize=True, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if _IN_CI else "local"))

_POSTGRES = os.environ.get("TUNESAFE_TEST_POSTGRES", "postgresql+psycopg://postgres@127.0.0.1:5432/test")
_MARIADB = os.environ.get("TUNESAFE_TEST_MARIADB", "mysql+pymysql://root@127.0.0.1:3306/test")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whoever asks for a server's fixture carries its marker."""
    for item in items:
        for server in ("postgres", "mariadb", "s3"):
            if f"{server}_url" in getattr(item, "fixturenames", ()):
                item.add_marker(server)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """URL of an SQLite database that does not exist yet."""
    return f"sqlite:///{tmp_path / 'study.db'}"


@pytest.fixture
def postgres_url() -> Iterator[str]:
    """URL of an empty PostgreSQL database, dropped after the test."""
    with _fresh_database(_POSTGRES, drop="DROP DATABASE {name} WITH (FORCE)") as url:
        yield url


@pytest.fixture
def mariadb_url() -> Iterator[str]:
    """URL of an empty MariaDB database, dropped after the test."""
    with _fresh_database(_MARIADB, drop="DROP DATABASE {name}") as url:
        yield url


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("postgres", marks=pytest.mark.postgres),
        pytest.param("mariadb", marks=pytest.mark.mariadb),
    ]
)
def database_url(request: pytest.FixtureRequest) -> str:
    """URL of an empty database, once for every kind we support: for contract suites."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture(
    params=[pytest.param("postgres", marks=pytest.mark.postgres), pytest.param("mariadb", marks=pytest.mark.mariadb)]
)
def server_url(request: pytest.FixtureRequest) -> str:
    """URL of an empty database on each server in turn."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture(
    params=[pytest.param("postgres", marks=pytest.mark.postgres), pytest.param("mariadb", marks=pytest.mark.mariadb)]
)
def own_server(request: pytest.FixtureRequest) -> Iterator[servers.Server]:
    """A server that the test may kill, of every kind in turn."""
    try:
        with getattr(servers, request.param)() as server:
            yield server
    except servers.MissingServerError as error:
        _missing(str(error))


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Address of an S3 server on loopback, without buckets."""
    if importlib.util.find_spec("obstore") is None:
        _missing("obstore is not installed")
    try:
        with s3.server() as address:
            yield address
    except s3.MissingS3Error as error:
        _missing(str(error))


@pytest.fixture
def s3_url(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of an empty prefix in an empty bucket; the environment holds the address and credentials."""
    bucket = f"tunesafe-{uuid.uuid4().hex[:12]}"
    s3.make_bucket(s3_server, bucket)
    for name, value in {**s3.CREDENTIALS, "AWS_ENDPOINT_URL": s3_server, "AWS_ALLOW_HTTP": "true"}.items():
        monkeypatch.setenv(name, value)
    return f"s3://{bucket}/studies/one"


@pytest.fixture
def gcs() -> Iterator[gcs_server.GcsServer]:
    """A server that speaks as Google Cloud Storage does, without buckets."""
    if importlib.util.find_spec("obstore") is None:
        _missing("obstore is not installed")
    with gcs_server.server() as server:
        yield server


@pytest.fixture
def gcs_url(gcs: gcs_server.GcsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of an empty prefix in an empty bucket; the environment holds the address and credentials."""
    gcs.buckets["tunesafe-test"] = {}
    gcs_server.write_key(tmp_path / "gcs-key.json", gcs.address)
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(tmp_path / "gcs-key.json"))
    monkeypatch.setenv("GOOGLE_ALLOW_HTTP", "true")
    return "gs://tunesafe-test/studies/one"


@contextmanager
def _fresh_database(server: str, *, drop: str) -> Iterator[str]:
    from sqlalchemy import NullPool, create_engine, make_url, text
    from sqlalchemy.exc import OperationalError

    name = f"tunesafe_test_{uuid.uuid4().hex}"
    url = make_url(server)
    try:
        engine = create_engine(
            url, isolation_level="AUTOCOMMIT", poolclass=NullPool, connect_args={"connect_timeout": 5}
        )
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
    except (ModuleNotFoundError, OperationalError) as error:
        _missing(f"no test database on {url.render_as_string()}: {str(error).splitlines()[0]}")
    try:
        yield url.set(database=name).render_as_string(hide_password=False)
    finally:
        with engine.connect() as connection:
            if engine.dialect.name == "mysql":
                # A transaction the test left open would block the drop for a day.
                connection.execute(text("SET lock_wait_timeout = 10"))
            connection.execute(text(drop.format(name=name)))


def _missing(reason: str) -> None:
    if _IN_CI:
        pytest.fail(f"{reason} (CI is set: a missing server is a failure)", pytrace=False)
    pytest.skip(reason)
