"""A network that swallows what is sent to a database server, and says nothing to either end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event, make_url, text
from sqlalchemy.exc import OperationalError

from tests.integration.blackhole import Network, Swallowed, network_to
from tests.integration.lossy import role
from tests.integration.lossy_study import outcome, run, spec_at
from tests.integration.workers_project import Project, started, wait_for
from tunesafe.contracts import Notice
from tunesafe.store import first_open, servers
from tunesafe.store.engine import open_engine, writing
from tunesafe.store.faults import TransientStorageError
from tunesafe.study import opening, patience

pytestmark = pytest.mark.timeout(300)

SILENCE_SECONDS, LOCK_SECONDS = 2, 1
STATEMENT, COMMIT = "statement", "commit"


@pytest.fixture(
    params=[pytest.param("postgres", marks=pytest.mark.postgres), pytest.param("mariadb", marks=pytest.mark.mariadb)]
)
def server_url(request: pytest.FixtureRequest) -> str:
    """URL of an empty database on each server in turn."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def through(server_url: str) -> Iterator[tuple[Network, str]]:
    """A network before that server, and the address through it."""
    with network_to(server_url) as network:
        yield network


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence is over sooner than in earnest, and nobody waits between two attempts."""
    monkeypatch.setattr(servers, "_SILENCE_SECONDS", SILENCE_SECONDS)
    monkeypatch.setattr(servers, "_LOCK_SECONDS", LOCK_SECONDS)
    monkeypatch.setattr(servers, "_CONNECT_SECONDS", SILENCE_SECONDS)
    monkeypatch.setattr(patience, "_FIRST_SECONDS", 0.0)
    monkeypatch.setattr(opening, "_OPENING_SECONDS", 600.0)


# --- whole studies -------------------------------------------------------------------------


@dataclass(frozen=True)
class Hole:
    """Where the network begins to swallow.

    Args:
        place: After so many statements and commits of the run.
        before: What the next thing must be: a statement or a commit.
        swallowed: What it swallows.
        late: Whether that arrives when the network is back.
    """

    place: int
    before: str
    swallowed: Swallowed
    late: bool


@dataclass
class Holes:
    """Lets a network swallow at these places of a study, and brings it back once the worker says that it waits."""

    network: Network
    holes: list[Hole]
    num_seen: int = 0
    current: Hole | None = None
    is_open: bool = False
    num_waiting: int = 0

    def watch(self, notice: Notice) -> None:
        """As a study's observer."""
        self.is_open = self.is_open or notice.kind == "opened"
        what = notice.details.get("event")
        self.num_waiting += {"storage_lost": 1, "storage_back": -1}.get(str(what), 0)
        if what == "storage_lost" and self.current is not None:
            self.network.restore(late=self.current.late)
            self.current = None

    def passing(self, what: str) -> None:
        """The worker is about to do this, in the training loop or beside it."""
        if not self.is_open or role() is None:
            return
        self.num_seen += 1
        # Whoever waits says so once, however often the network is gone meanwhile: it has to come back first.
        if self.num_waiting or self.current is not None or not self.holes:
            return
        if self.num_seen > self.holes[0].place and what == self.holes[0].before:
            self.current = self.holes.pop(0)
            self.network.swallow(self.current.swallowed)


@contextmanager
def listening(holes: Holes) -> Iterator[None]:
    """Let every engine of this process pass by these holes."""

    def on_statement(*args: Any) -> None:
        holes.passing(STATEMENT)

    def on_commit(connection: Any) -> None:
        holes.passing(COMMIT)

    event.listen(Engine, "before_cursor_execute", on_statement)
    event.listen(Engine, "commit", on_commit)
    try:
        yield
    finally:
        event.remove(Engine, "before_cursor_execute", on_statement)
        event.remove(Engine, "commit", on_commit)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the study comes to on SQLite, where nothing happens."""
    folder = tmp_path_factory.mktemp("undisturbed")
    spec = spec_at(f"sqlite:///{folder / 'study.db'}")
    run(spec, folder)
    return outcome(spec)


def survive(through: tuple[Network, str], folder: Path, plan: list[Hole], undisturbed: dict[str, Any]) -> None:
    """Run the study through a network with these holes; nothing may be lost, and nothing written twice."""
    network, url = through
    holes, spec = Holes(network, list(plan)), spec_at(url)
    with listening(holes):
        run(spec, folder, holes.watch)
    assert holes.holes == []
    assert network.num_swallowed == len(plan)
    assert outcome(spec) == undisturbed


FEW = [
    Hole(60, STATEMENT, Swallowed.ALL, late=False),
    Hole(150, COMMIT, Swallowed.ANSWERS, late=False),
    Hole(250, COMMIT, Swallowed.ALL, late=True),
]


@pytest.mark.usefixtures("impatient")
def test_a_network_that_swallows_is_noticed_waited_for_and_costs_nothing(
    through: tuple[Network, str], tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    """Locks that the server still holds for connections it takes for alive; a COMMIT that comes too late."""
    survive(through, tmp_path, FEW, undisturbed)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("before", [STATEMENT, COMMIT])
@pytest.mark.parametrize("swallowed", list(Swallowed), ids=lambda swallowed: swallowed.value)
@pytest.mark.parametrize("late", [False, True], ids=["forgotten", "late"])
def test_a_network_may_swallow_again_and_again(
    late: bool,
    swallowed: Swallowed,
    before: str,
    through: tuple[Network, str],
    tmp_path: Path,
    undisturbed: dict[str, Any],
) -> None:
    """Eight times in a study of five trials, in every way there is."""
    survive(through, tmp_path, [Hole(40 * k, before, swallowed, late) for k in range(1, 9)], undisturbed)


@pytest.mark.slow
def test_a_command_waits_for_a_network_that_swallows(through: tuple[Network, str], tmp_path: Path) -> None:
    """Two workers, with the patience of earnest: no attempt is lost, and what they said was silent is back."""
    network, url = through
    project = Project.make(tmp_path, n_trials=4, more="n_workers: 2", storage=url)
    project.hold(1, 24)
    with started(project) as command:
        project.wait_until_held(1, 24)
        network.swallow()
        project.let_go(1, 24)
        wait_for(lambda: "storage_lost" in command.words)
        network.restore(late=False)
        assert command.wait() == 0, command.words
        assert "storage_back" in command.words
    assert project.phases() == ["told"] * 4
    assert [row.attempt for row in project.rows()] == [1] * 4
    assert project.optuna_states() == [(number, "COMPLETE") for number in range(4)]


# --- the two ends of a connection ------------------------------------------------------------


@contextmanager
def engine_with_a_row(url: str) -> Iterator[Engine]:
    """A database with one row to write to."""
    engine = open_engine(url)
    try:
        with writing(engine) as connection:
            connection.execute(text("CREATE TABLE shelf (n INTEGER)"))
            connection.execute(text("INSERT INTO shelf VALUES (0)"))
        yield engine
    finally:
        engine.dispose()


def add_one(engine: Engine) -> str:
    """Write to the row; why not, if not."""
    try:
        with writing(engine) as connection:
            connection.execute(text("UPDATE shelf SET n = n + 1"))
    except TransientStorageError as error:
        return str(error)
    return ""


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("values", [[{"n": 100}], [{"n": 100}, {"n": 200}]], ids=["one row", "many rows"])
def test_a_server_gives_up_the_transaction_of_a_client_it_no_longer_hears(
    values: list[dict[str, int]], server_url: str, through: tuple[Network, str]
) -> None:
    """Whose connection is never closed, as far as the server knows: the row it holds is free again by itself."""
    network, far = through
    with engine_with_a_row(server_url) as near:
        lost = open_engine(far).connect()
        lost.execute(text("UPDATE shelf SET n = :n"), values)
        network.swallow()
        network.restore(late=False)
        wait_for(lambda: not add_one(near))
        with near.connect() as connection:
            assert connection.execute(text("SELECT n FROM shelf")).scalar_one() == 1
        lost.invalidate()
        lost.close()


@pytest.mark.usefixtures("impatient")
def test_a_server_gives_up_the_transaction_of_a_client_that_never_heard_of_its_rows(
    server_url: str, through: tuple[Network, str]
) -> None:
    """The rows arrived, the answers did not: the client is gone before it could say anything more."""
    network, far = through
    with engine_with_a_row(server_url) as near:
        lost = open_engine(far).connect()
        lost.execute(text("SELECT n FROM shelf"))
        network.swallow(Swallowed.ANSWERS)
        with pytest.raises(OperationalError):
            lost.execute(text("UPDATE shelf SET n = :n"), [{"n": 100}, {"n": 200}])
        network.restore(late=False)
        wait_for(lambda: not add_one(near))
        with near.connect() as connection:
            assert connection.execute(text("SELECT n FROM shelf")).scalar_one() == 1
        lost.close()


def test_waiting_for_a_lock_is_no_silence(server_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait ends first, in an answer: what is said is what happened."""
    monkeypatch.setattr(servers, "_LOCK_SECONDS", LOCK_SECONDS)
    with engine_with_a_row(server_url) as engine, engine.connect() as holder:
        holder.execute(text("UPDATE shelf SET n = 100"))
        assert "is locked" in add_one(engine)
        holder.rollback()
        assert not add_one(engine)


@pytest.mark.usefixtures("impatient")
def test_a_server_that_accepts_and_says_nothing_cannot_be_reached(through: tuple[Network, str]) -> None:
    """Neither at the first connection nor at a later one."""
    network, url = through
    engine = open_engine(url)
    network.swallow()
    with pytest.raises(TransientStorageError, match="cannot be reached"):
        open_engine(url)
    with pytest.raises(TransientStorageError, match="cannot be reached"), writing(engine):
        pass
    network.restore(late=False)
    with writing(engine) as connection:
        assert connection.execute(text("SELECT 1")).scalar_one() == 1
    engine.dispose()


@pytest.mark.usefixtures("impatient")
def test_whoever_opens_second_waits_longer_than_one_statement_may(
    server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock of the first opening is asked for again and again, each time for a moment."""
    asked = threading.Semaphore(0)
    for name in ("_acquire_postgres", "_acquire_mysql"):
        acquire = getattr(first_open, name)

        def counted(*args: Any, acquire: Any = acquire) -> bool:
            asked.release()
            return bool(acquire(*args))

        monkeypatch.setattr(first_open, name, counted)
    opened = threading.Event()

    def open_second() -> None:
        with first_open.first_open_lock(server_url):
            opened.set()

    second = threading.Thread(target=open_second)
    with first_open.first_open_lock(server_url):
        second.start()
        for _ in range(3):  # our own, its first, and its second
            assert asked.acquire(timeout=60)
        assert not opened.is_set()
    second.join(60)
    assert opened.is_set()


def test_what_an_address_says_of_its_connections_goes_before_our_limits(postgres_url: str) -> None:
    """For a server that is honestly slower; and other options of an address stay what they are."""
    mine = make_url("mysql+pymysql://me@db/tunes?read_timeout=300")
    arguments = servers.server_kwargs(mine)["connect_args"]
    assert "read_timeout" not in arguments
    assert "write_timeout" in arguments
    url = make_url(postgres_url).update_query_dict({"options": "-c search_path=elsewhere", "keepalives_idle": "77"})
    engine = open_engine(url)
    with writing(engine) as connection:
        assert connection.execute(text("SHOW search_path")).scalar_one() == "elsewhere"
        assert "keepalives_idle=77" in connection.connection.driver_connection.info.dsn  # type: ignore[union-attr]
    engine.dispose()
