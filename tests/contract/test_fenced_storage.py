"""What we rely on in Optuna: our statement runs in its transactions, and undoes them when it raises."""

from __future__ import annotations

import gc

import optuna
import pytest
import sqlalchemy as sa
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial
from sqlalchemy import event

from tunesafe.errors import DamagedError, LeaseLostError, StorageError
from tunesafe.study.fenced import FencedStorage
from tunesafe.study.optuna_tables import number_of_newest_trial


@pytest.fixture
def storage(sqlite_url):
    """A fenced storage on an empty database."""
    storage = FencedStorage(sqlite_url)
    yield storage
    storage.close()


@pytest.fixture
def study_id(storage):
    """A study in it."""
    with storage.guarded(lambda connection: None):
        return storage.create_new_study([optuna.study.StudyDirection.MINIMIZE], "s")


@pytest.fixture
def trial_id(storage, study_id):
    """A running trial in that."""
    with storage.guarded(lambda connection: None):
        return storage.create_new_trial(study_id)


def lose(connection):
    """Stand in for a fence that somebody else has raised."""
    raise LeaseLostError("another worker has the trial")


def test_a_storage_that_cannot_be_opened_gives_its_connections_back(database_url, monkeypatch):
    """Opening is tried again and again while a database comes and goes; a server has a hundred places."""
    opened, closed = [], []

    def break_off(self):
        raise sa.exc.OperationalError("SELECT", {}, Exception("gone"))

    monkeypatch.setattr("optuna.storages._rdb.storage._VersionManager.check_table_schema_compatibility", break_off)
    listeners = (("connect", lambda connection, record: opened.append(id(record))),
                 ("close", lambda connection, record: closed.append(id(record))))  # fmt: skip
    for name, listener in listeners:
        event.listen(sa.Pool, name, listener)
    try:
        with pytest.raises(StorageError):
            FencedStorage(database_url)
    finally:
        for name, listener in listeners:
            event.remove(sa.Pool, name, listener)
    assert opened
    assert closed == opened


WRITES = {
    "parameter": lambda s, t: s.set_trial_param(t, "x", 0.5, FloatDistribution(0, 1)),
    "intermediate value": lambda s, t: s.set_trial_intermediate_value(t, 1, 0.5),
    "user attribute": lambda s, t: s.set_trial_user_attr(t, "k", 1),
    "system attribute": lambda s, t: s.set_trial_system_attr(t, "k", 1),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_write_under_a_lost_fence_leaves_nothing(storage, trial_id, write):
    """Optuna rolls its own write back with ours, and the error comes out as it was raised."""
    before = storage.get_trial(trial_id)
    with storage.guarded(lose), pytest.raises(LeaseLostError):
        write(storage, trial_id)
    assert storage.get_trial(trial_id) == before


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_write_carries_exactly_one_statement_of_ours(storage, trial_id, write):
    """Reads inside the write's own method do not run it, and one write does not run it twice."""
    runs = []
    with storage.guarded(lambda connection: runs.append(connection.in_transaction())):
        storage.get_trial(trial_id)
        assert runs == []
        write(storage, trial_id)
    assert runs == [True]


def test_a_parameter_that_is_there_is_the_one_that_is_set(database_url):
    """Optuna ignores that it is there, whichever it is: the same is a step that is repeated, another is damage."""
    storage, between = FencedStorage(database_url), FloatDistribution(0, 1)
    try:
        with storage.guarded(lambda connection: None):
            trial = storage.create_new_trial(storage.create_new_study([optuna.study.StudyDirection.MINIMIZE], "s"))
            for _ in range(2):
                storage.set_trial_param(trial, "x", 0.5, between)
            with pytest.raises(DamagedError, match=r"Trial 0 has x = 0\.5 instead of 0\.75"):
                storage.set_trial_param(trial, "x", 0.75, between)
        with storage.guarded(lose), pytest.raises(LeaseLostError):
            storage.set_trial_param(trial, "x", 0.75, between)
        assert storage.get_trial(trial).params == {"x": 0.5}
    finally:
        storage.close()


DAMAGED_TEXTS = {
    "a distribution without a key": "UPDATE trial_params SET distribution_json = '{}'",
    "a distribution of no kind": 'UPDATE trial_params SET distribution_json = \'{"name": "x", "attributes": {}}\'',
    "an attribute that is no JSON": "UPDATE trial_system_attributes SET value_json = '{'",
}


@pytest.mark.parametrize("damage", DAMAGED_TEXTS.values(), ids=DAMAGED_TEXTS)
def test_a_damaged_text_is_damage_whoever_reads_it(storage, study_id, trial_id, damage):
    """A key that is missing within a text is no trial that is missing."""
    with storage.guarded(lambda connection: None):
        storage.set_trial_param(trial_id, "x", 0.5, FloatDistribution(0, 1))
        storage.set_trial_system_attr(trial_id, "k", 1)
    with storage._rdb.engine.begin() as connection:
        connection.execute(sa.text(damage))
    for read in (
        lambda: storage.get_trial(trial_id),
        lambda: storage.get_all_trials(study_id),
        lambda: storage.stored_trials(study_id),
    ):
        with pytest.raises(DamagedError, match="a row in Optuna's tables is damaged"):
            read()
    for missing in (lambda: storage.get_trial(trial_id + 1), lambda: storage.get_all_trials(study_id + 1)):
        with pytest.raises(KeyError):
            missing()


def test_a_trial_ends_only_together_with_our_mark(storage, trial_id):
    """The state stays RUNNING where the carried statement raises."""
    with storage.telling(lose), pytest.raises(LeaseLostError):
        storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [1.0])
    assert storage.get_trial(trial_id).state is TrialState.RUNNING
    with storage.telling(lambda connection: None):
        storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [1.0])
    assert storage.get_trial(trial_id).state is TrialState.COMPLETE


def test_a_new_trial_knows_its_number_before_it_is_committed(storage, study_id):
    """The claim reads the number Optuna gave, inside Optuna's transaction."""
    numbers = []
    for _ in range(3):
        with storage.carrying(lambda connection: numbers.append(number_of_newest_trial(connection, study_id))):
            storage.create_new_trial(study_id)
    assert numbers == [0, 1, 2]


def test_a_refused_number_leaves_no_trial(storage, study_id):
    """Exactly N: a trial whose claim is refused never was."""
    with storage.carrying(lose), pytest.raises(LeaseLostError):
        storage.create_new_trial(study_id)
    assert storage.get_all_trials(study_id) == []


def test_an_integrity_error_of_ours_is_not_swallowed(storage, trial_id):
    """Optuna ignores integrity errors of attribute writes; ours must come out."""

    def violate(connection):
        connection.execute(sa.text("INSERT INTO studies (study_id, study_name) VALUES (99, 's')"))

    with storage.guarded(violate), pytest.raises(StorageError):
        storage.set_trial_user_attr(trial_id, "k", 1)
    assert storage.get_trial(trial_id).user_attrs == {}


def test_a_write_without_fence_or_claim_is_a_bug(storage, trial_id):
    """Nothing writes to Optuna unguarded, by accident or by an Optuna that grew a new habit."""
    with pytest.raises(AssertionError, match="carries neither"):
        storage.set_trial_user_attr(trial_id, "k", 1)


def test_past_trials_are_shown_with_the_current_range(storage, study_id):
    """A widened range keeps its parameter in the joint draw; values outside keep their own distribution."""
    template = create_trial(
        params={"x": 0.5, "c": "a"},
        distributions={"x": FloatDistribution(0, 1), "c": CategoricalDistribution(["a", "b"])},
        value=1.0,
    )
    with storage.guarded(lambda connection: None):
        storage.create_new_trial(study_id, template)
    wide, narrow = FloatDistribution(0, 2), FloatDistribution(0.6, 1)
    for current, expected in ((wide, wide), (narrow, FloatDistribution(0, 1))):
        storage.show({"x": current})
        [trial] = storage.get_all_trials(study_id)
        assert trial.distributions == {"x": expected, "c": CategoricalDistribution(["a", "b"])}
        assert trial.params == {"x": 0.5, "c": "a"}


def test_a_finished_trial_is_compared_with_the_current_ranges_once(storage, study_id, monkeypatch):
    """Ranges that stay as they are change nothing about thousands of trials, so nobody looks through them again."""
    template = create_trial(params={"x": 0.5}, distributions={"x": FloatDistribution(0, 1)}, value=1.0)
    with storage.guarded(lambda connection: None):
        storage.create_new_trial(study_id, template)
    compared = []
    monkeypatch.setattr("tunesafe.study.past_trials._same", lambda one, other: compared.append(one) or one == other)
    for high, times in ((2, 1), (2, 1), (3, 2)):
        storage.show({"x": FloatDistribution(0, high)})
        for _ in range(2):
            [trial] = storage.get_all_trials(study_id)
            assert trial.distributions["x"].high == high
        assert len(compared) == times


@pytest.mark.parametrize("collects", [True, False])
def test_no_garbage_is_collected_while_all_trials_are_read(storage, study_id, monkeypatch, collects):
    """Where thousands are read for the first time, that takes as long as reading; whoever collects goes on after it."""
    seen = []
    read = storage._inner.get_all_trials
    monkeypatch.setattr(
        storage._inner, "get_all_trials", lambda *args, **kwargs: seen.append(gc.isenabled()) or read(*args, **kwargs)
    )
    try:
        (gc.enable if collects else gc.disable)()
        storage.get_all_trials(study_id)
        with pytest.raises(KeyError):
            storage.get_all_trials(study_id + 1)
        assert seen == [False, False]
        assert gc.isenabled() is collects
    finally:
        gc.enable()


def test_what_optuna_has_read_is_not_expired_with_its_sessions(storage, trial_id):
    """Optuna is through with a session when it commits; a session that is used again begins with nothing."""
    sessions = []
    event.listen(storage._rdb.scoped_session, "after_commit", sessions.append)
    storage.get_trial(trial_id)
    assert [session.expire_on_commit for session in sessions] == [False]
    assert not list(sessions[0].identity_map)


def test_optunas_connections_have_our_pragmas(storage, trial_id):
    """Optuna sets none of its own: every one of its connections waits, and commits in full."""
    seen = []

    @event.listens_for(storage._rdb.engine, "checkout")
    def look(connection, *_):
        pragmas = ("journal_mode", "synchronous", "busy_timeout")
        seen.append(tuple(connection.execute(f"PRAGMA {name}").fetchone()[0] for name in pragmas))

    storage.get_trial(trial_id)
    assert seen
    assert set(seen) == {("wal", 2, 60_000)}


def test_trials_held_still_are_read_once_and_shown_alike(storage, study_id, trial_id):
    """A pruner that asks several times sees one moment of the study, and costs one reading."""
    statements = []
    event.listen(storage._rdb.engine, "after_cursor_execute", lambda *details: statements.append(details[2]))
    with storage.held_still(study_id):
        read = len(statements)
        with storage.guarded(lambda connection: None):
            storage.set_trial_intermediate_value(trial_id, 1, 0.5)
        written = len(statements)
        assert storage.get_trial(trial_id).intermediate_values == {}
        assert storage.get_all_trials(study_id)[0].intermediate_values == {}
        assert storage.get_all_trials(study_id, states=(TrialState.COMPLETE,)) == []
        assert len(statements) == written > read > 0
    assert storage.get_trial(trial_id).intermediate_values == {1: 0.5}
