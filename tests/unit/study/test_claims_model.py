"""Claims against a model of them: whatever happens in whatever order, one worker may write, and N stays N.

Workers are identities whose liveness the model decides. Time passes by moving expiry dates in the
table, forwards and backwards, in steps so large that the test's own duration does not count.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import update

from tests.unit.study.studies import ELSEWHERE, PRUNED, Desk, opened
from tunesafe.contracts import Claim, Owner, TrialPhase
from tunesafe.errors import LeaseLostError, StudyChangedError
from tunesafe.store import claims
from tunesafe.store.engine import reading, writing
from tunesafe.store.faults import TransientStorageError
from tunesafe.store.tables import trials
from tunesafe.store.trial_rows import trial_rows
from tunesafe.study.overseeing import Death, Overseer
from tunesafe.study.patience import Patience

N, RETRIES = 3, 2
STEP = 100_000
LEASE = 5 * STEP + STEP // 2
"""Half a step more than a number of steps: no date is ever near the present."""


@dataclass
class Trial:
    """What the model knows of one number."""

    phase: TrialPhase = TrialPhase.FREE
    fence: int = 0
    attempt: int = 0
    owner: int | None = None
    left: int | None = None
    """Of the lease [s]; ``None`` if it was given back."""
    examples_seen: int = 0
    num_deaths: int = 0
    taken_at: dict[int, int] = field(default_factory=dict)
    """Whose claim was taken over with how much progress."""


@dataclass(frozen=True)
class Held:
    """A claim in somebody's hands; nobody knows whether it still stands."""

    worker: int
    claim: Claim


class Claims(RuleBasedStateMachine):
    """Three trials, and workers that come, stop, lose, die and wake."""

    template: Path
    held = Bundle("held")
    deaths = Bundle("deaths")

    @initialize()
    def begin(self) -> None:
        """A study nobody has worked on."""
        self.folder = Path(tempfile.mkdtemp(dir=self.template.parent))
        shutil.copy(self.template, self.folder / "study.db")
        url = f"sqlite:///{self.folder / 'study.db'}"
        self.opening = opened(url, n_trials=N, lease=float(LEASE), retries=RETRIES)
        study = replace(self.opening.__enter__(), patience=Patience(600.0, sleep=lambda seconds: None))
        self.study, self.overseer = study, Overseer(study)
        self.model = [Trial() for _ in range(N)]
        self.dead: set[int] = set()
        self.seen: list[Death] = []
        self.desks: dict[int, Desk] = {}
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(claims, "is_provably_dead", lambda owner: owner.pid in self.dead)

    def teardown(self) -> None:
        """Optuna has exactly the trials that have begun; then all is put back."""
        if hasattr(self, "patch"):
            self.patch.undo()
            numbers = [trial.number for trial in Desk(self.study).plain().trials]
            assert numbers == [n for n, trial in enumerate(self.model) if trial.phase is not TrialPhase.FREE]
            self.opening.__exit__(None, None, None)
            shutil.rmtree(self.folder)

    def desk(self, worker: int) -> Desk:
        """A worker's; it lives from its first claim on."""
        if worker not in self.desks:
            owner: Owner = replace(ELSEWHERE, pid=worker)
            self.desks[worker] = Desk(self.study, owner)
        return self.desks[worker]

    # --- what workers do ----------------------------------------------------------------

    @rule(target=held, worker=st.integers(1, 3), lost=st.sampled_from(["nothing", "request", "reply"]))
    def claim(self, worker: int, lost: str) -> Any:
        """The next trial by the one order, once, even if the database's answer is lost."""
        while worker in self.dead:
            worker += 3
        claimant = self.desk(worker).claimant
        expected = self.next()
        with pytest.MonkeyPatch.context() as patch:
            if lost != "nothing":
                patch.setattr(claimant, "_claim", once_lost(claimant._claim, lost))
            claim = claimant.claim()
        assert (None if claim is None else claim.number) == expected
        if claim is None:
            return multiple()
        trial = self.model[claim.number]
        if trial.owner is not None and trial.left is not None:
            trial.taken_at[trial.owner] = trial.examples_seen
        trial.attempt += trial.phase is not TrialPhase.CLOSING
        trial.fence += 1
        trial.owner, trial.left = worker, LEASE
        trial.phase = TrialPhase.CLOSING if trial.phase is TrialPhase.CLOSING else TrialPhase.CLAIMED
        assert (claim.fence, claim.attempt, claim.phase) == (trial.fence, trial.attempt, trial.phase)
        return Held(worker, claim)

    def next(self) -> int | None:
        """The number that is due: outcomes first, then what was abandoned, then a free one."""
        for phase in (TrialPhase.CLOSING, TrialPhase.CLAIMED):
            for number, trial in enumerate(self.model):
                if trial.phase is phase and (trial.left is None or trial.left <= 0 or trial.owner in self.dead):
                    return number
        free = [number for number, trial in enumerate(self.model) if trial.phase is TrialPhase.FREE]
        return free[0] if free else None

    @rule(held=held)
    def beat(self, held: Held) -> None:
        """A lease is renewed, however long it is over, unless somebody has claimed."""
        if held.worker in self.dead:
            return
        with self.allowed(held) as trial, writing(self.study.engine) as connection:
            claims.renew(connection, self.study.row.uuid, held.claim.number, held.claim.fence, LEASE)
            trial.left = LEASE

    @rule(held=held, examples=st.sampled_from([10, 20, 40]))
    def progress(self, held: Held, examples: int) -> None:
        """Durable progress forgives deaths; going back is no progress. A trial with an outcome makes none."""
        if held.worker in self.dead or self.model[held.claim.number].phase is not TrialPhase.CLAIMED:
            return
        with self.allowed(held) as trial, writing(self.study.engine) as connection:
            claims.advance(connection, self.study.row.uuid, held.claim.number, held.claim.fence, examples)
            if examples > trial.examples_seen:
                trial.examples_seen, trial.num_deaths = examples, 0

    @rule(held=held)
    def finish(self, held: Held) -> None:
        """An outcome is recorded once; a trial that is told stays as it is."""
        if held.worker in self.dead:
            return
        with self.allowed(held) as trial:
            self.desk(held.worker).ledger.finish(held.claim, replace(PRUNED, examples_seen=trial.examples_seen))
            if trial.phase is not TrialPhase.TOLD:
                trial.phase = TrialPhase.CLOSING

    @rule(held=held)
    def tell(self, held: Held) -> None:
        """Optuna is told under the newest fence only."""
        if held.worker in self.dead:
            return
        trial = self.model[held.claim.number]
        if trial.phase is TrialPhase.TOLD:
            self.desk(held.worker).ledger.close(held.claim)
        elif trial.phase is TrialPhase.CLOSING:
            with self.allowed(held):
                self.desk(held.worker).ledger.close(held.claim)
                trial.phase, trial.left = TrialPhase.TOLD, None

    @rule(held=held)
    def release(self, held: Held) -> None:
        """Given back at once by whom it belongs to; nothing is taken from anybody else."""
        if held.worker in self.dead:
            return
        self.desk(held.worker).claimant.release(held.claim)
        trial = self.model[held.claim.number]
        if held.claim.fence == trial.fence:
            trial.left = None

    def allowed(self, held: Held) -> Any:
        """The block succeeds under the newest fence, and is refused under any other."""
        trial = self.model[held.claim.number]
        return _Fenced(trial, held.claim.fence == trial.fence)

    # --- what befalls them --------------------------------------------------------------

    @rule(target=deaths, held=held)
    def die(self, held: Held) -> Any:
        """A worker dies in user code; its supervisor will see it, sooner or later."""
        if held.worker in self.dead:
            return multiple()
        self.dead.add(held.worker)
        return Death(held.worker, "SIGKILL", held.claim.number, held.claim.fence)

    @rule(death=deaths, again=st.booleans())
    def see(self, death: Death, again: bool) -> None:
        """A death counts once, unless there was progress since; the last one allowed fails the trial."""
        assert death.number is not None
        trial = self.model[death.number]
        first = self.overseer.record_death(death)
        if death not in self.seen:
            self.seen.append(death)
            current = trial.fence == death.fence
            late = trial.taken_at.get(death.pid) == trial.examples_seen
            counts = trial.phase is TrialPhase.CLAIMED and (current or late)
            trial.num_deaths += counts
            assert first.get("deaths") == (trial.num_deaths if counts else None)
            if counts and current and trial.num_deaths >= RETRIES:
                trial.phase, trial.left = TrialPhase.CLOSING, None
        if again:
            assert self.overseer.record_death(death).items() >= first.items()

    @rule(steps=st.sampled_from([-3, 1, 2, 6]))
    def time(self, steps: int) -> None:
        """Time passes, or the database's clock is put back."""
        for trial in self.model:
            if trial.left is not None:
                trial.left -= steps * STEP
        with writing(self.study.engine) as connection:
            expiry = trials.c.lease_expires_at
            connection.execute(update(trials).where(expiry > 0).values(lease_expires_at=expiry - steps * STEP))

    # --- what always holds --------------------------------------------------------------

    @precondition(lambda self: hasattr(self, "model"))
    @invariant()
    def the_table_is_the_model(self) -> None:
        """Phase, fence, attempt and progress of every trial."""
        with reading(self.study.engine) as connection:
            rows = trial_rows(connection, self.study.row.uuid)
        found = [(row.phase, row.fence, row.attempt, row.examples_seen) for row in rows]
        assert found == [(trial.phase, trial.fence, trial.attempt, trial.examples_seen) for trial in self.model]


class _Fenced:
    """Expects LeaseLostError, or none."""

    def __init__(self, trial: Trial, is_current: bool) -> None:
        self._trial, self._is_current = trial if is_current else replace(trial), is_current

    def __enter__(self) -> Trial:
        return self._trial

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> bool:
        if self._is_current:
            return False
        assert kind is LeaseLostError, "a write under an old fence was not refused"
        return True


def once_lost(operation: Any, what: str) -> Any:
    """The operation, whose first request never arrives, or whose first reply is lost."""
    calls: list[str] = []

    def flaky(*args: Any) -> Any:
        calls.append(what)
        if len(calls) > 1:
            return operation(*args)
        if what == "reply":
            operation(*args)
        raise TransientStorageError("the connection was lost")

    return flaky


def test_claims_behave_as_their_model(empty_database: Path) -> None:
    """Claims, beats, expiries, deaths, stops, lost requests and replies, clock jumps, in any order."""
    Claims.template = empty_database
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
    case = settings(max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=checks)
    run_state_machine_as_test(Claims, settings=case)


def test_a_worker_that_finds_the_last_number_taken_by_a_faster_one_waits(sqlite_url: str) -> None:
    """Between its look at the table and Optuna's transaction, another has begun the last trial."""
    with opened(sqlite_url, n_trials=1) as study, pytest.MonkeyPatch.context() as patch:
        slow, fast = Desk(study), Desk(study, ELSEWHERE)
        take = slow.claimant._take_free

        def take_late(token: str) -> Claim | None:
            fast.claim()
            return take(token)

        patch.setattr(slow.claimant, "_take_free", take_late)
        assert slow.claimant.claim() is None
        assert [trial.number for trial in slow.plain().trials] == [0]


def test_a_worker_that_finds_the_numbers_changed_begins_again(sqlite_url: str) -> None:
    """Another command asked for more trials meanwhile, and its worker took the last this one knew of."""
    with opened(sqlite_url, n_trials=1) as study, pytest.MonkeyPatch.context() as patch:
        slow = Desk(study)
        take = slow.claimant._take_free

        def take_late(token: str) -> Claim | None:
            with opened(sqlite_url, n_trials=2) as changed:
                Desk(changed, ELSEWHERE).claim()
            return take(token)

        patch.setattr(slow.claimant, "_take_free", take_late)
        with pytest.raises(StudyChangedError):
            slow.claimant.claim()
