"""Optuna's storage with our claim and fence inside its own transactions.

Every write of this process goes through here, and every transaction that writes also runs
a statement of ours before it commits: take a number, check the fence, insert a record. A
worker whose trial another has claimed therefore cannot write to Optuna's tables at all,
and a report costs one commit, not two.

Relies, as ``optuna_tables`` and ``past_trials`` do, on a few private names of Optuna's;
``tests/contract`` pins them.
"""

# ruff: noqa: D102  what each method does is documented by BaseStorage
from __future__ import annotations

import gc
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage, get_storage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, event
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from tunesafe.errors import DamagedError, StorageError
from tunesafe.failpoints import failpoint
from tunesafe.store.faults import TransientStorageError, translated
from tunesafe.store.urls import canonical_url, display_url
from tunesafe.study.optuna_tables import open_tables, rows_intact, unwrapped
from tunesafe.study.past_trials import PastTrials

__all__ = ["Carried", "FencedStorage"]

Carried = Callable[[Connection], None]
"""A statement of ours that runs inside Optuna's transaction, last before its commit."""


class FencedStorage(BaseStorage):
    """An Optuna storage whose writes carry a statement of ours in the same transaction.

    Args:
        url: SQLAlchemy URL of the study's database.

    Raises:
        StorageError: From any method, where the database fails. Whatever the carried
            statement raises comes out unchanged, and nothing of that transaction stays.
        DamagedError: From those that read, where a row is not what Optuna wrote.
    """

    def __init__(self, url: str) -> None:
        self._url = canonical_url(url)
        self._rdb = open_tables(self._url)
        self._inner = get_storage(self._rdb)
        self._carried: Carried | None = None
        self._guard: Carried | None = None
        self._ending: Carried | None = None
        self._armed: Carried | None = None
        self._past = PastTrials()
        self._held: list[FrozenTrial] | None = None
        self._trouble: StorageError | None = None
        self._written_before = False
        event.listen(self._rdb.scoped_session, "before_commit", self._before_commit)

    def close(self) -> None:
        """Give the connections back."""
        self._rdb.scoped_session.remove()
        self._rdb.engine.dispose()

    # --- what our transactions carry ---------------------------------------------------

    @contextmanager
    def guarded(self, guard: Carried) -> Iterator[None]:
        """Run ``guard`` in every writing transaction inside the block, e.g. a fence check."""
        before, self._guard = self._guard, guard
        try:
            yield
        finally:
            self._guard = before

    @contextmanager
    def carrying(self, carried: Carried) -> Iterator[None]:
        """Run ``carried`` in the one writing transaction inside the block, in place of the guard."""
        self._carried = carried
        try:
            yield
        finally:
            self._carried = None

    @contextmanager
    def telling(self, carried: Carried) -> Iterator[None]:
        """Run ``carried`` in the transaction that ends a trial; the sampler's writes keep the guard."""
        self._ending, self._trouble = carried, None
        try:
            yield
        finally:
            self._ending = None

    @contextmanager
    def _write(self, what: str) -> Iterator[Carried]:
        carried = self._carried or self._guard
        if carried is None:
            raise AssertionError(f"{what}: a write to Optuna that carries neither a fence nor a claim")
        self._armed, self._written_before = carried, False
        try:
            with self._translated():
                yield carried
        finally:
            self._armed = None

    def _before_commit(self, session: Session) -> None:
        if self._armed is None:
            return
        carried, self._armed = self._armed, None
        try:
            session.flush()
        except IntegrityError as error:
            if carried is not self._carried:
                self._written_before = True
                raise  # Optuna ignores it, whatever is there
            raise TransientStorageError(f"{display_url(self._url)}: written twice at once: {error.orig}") from error
        try:
            with translated(self._url):
                carried(session.connection())
        except IntegrityError as error:  # Optuna swallows those of attribute writes: not ours, too
            raise StorageError(f"{display_url(self._url)}: {error.orig}") from error

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            with unwrapped(self._url):
                yield
        except StorageError as error:
            self._trouble = error
            raise

    @contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        with self._translated(), rows_intact(what):
            yield

    # --- what samplers and pruners may see ---------------------------------------------

    def show(self, distributions: Mapping[str, BaseDistribution]) -> None:
        """Set how past trials look: with the current distributions."""
        self._past.show_with(distributions)

    @contextmanager
    def held_still(self, study_id: int) -> Iterator[None]:
        """Read all trials once, and show them so to everybody who asks inside the block."""
        self._held = self.get_all_trials(study_id, deepcopy=False)
        try:
            yield
        finally:
            self._held = None

    def stored_trials(self, study_id: int, *, afresh: bool = False) -> list[FrozenTrial]:
        """All trials as Optuna has stored them, whatever parameters look like now; not to be changed.

        Args:
            study_id: Optuna's id.
            afresh: Whether to read also those again that were finished when they were read before.
        """
        with self._reading("The study's trials"), _without_collecting():
            return (self._rdb if afresh else self._inner).get_all_trials(study_id, deepcopy=False)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        if self._held is not None:
            shown = [trial for trial in self._held if states is None or trial.state in states]
        else:
            with self._reading("The study's trials"), _without_collecting():
                shown = self._past.all_shown(self._inner.get_all_trials(study_id, deepcopy=False, states=states))
        return _deepcopy(shown) if deepcopy else shown

    # --- writes ------------------------------------------------------------------------

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        with self._write("creating the study"):
            return self._inner.create_new_study(directions, study_name)

    def delete_study(self, study_id: int) -> None:
        raise AssertionError("tunesafe never deletes a study")

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        with self._write("writing a study attribute"):
            self._inner.set_study_user_attr(study_id, key, value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        with self._write("writing a study attribute"):
            self._inner.set_study_system_attr(study_id, key, value)

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        with self._write("creating a trial"):
            return self._inner.create_new_trial(study_id, template_trial)

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        with self._write("writing a parameter") as carried:
            # Not through Optuna's cache: it compares with the first distribution the parameter ever had, and an
            # accepted change may be another. What past trials look like is decided in ``show``.
            self._rdb._set_trial_param(trial_id, param_name, param_value_internal, distribution, distribution)
            if not self._written_before:
                return
            with self._rdb.engine.connect() as connection:
                carried(connection)  # what is there may be the work of whoever has the trial now
            stored = self._rdb.get_trial_param(trial_id, param_name)
            if stored != param_value_internal:  # training would see another value than samplers do
                raise DamagedError(
                    f"Trial {self._rdb.get_trial_number_from_id(trial_id)} has {param_name} = {stored!r} instead of "
                    f"{param_value_internal!r}, in Optuna's tables: damaged, or changed by another program. "
                    "The trial does not go on by it. Restore the database from a backup, or begin under a new name."
                )

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        if self._ending is None:
            raise AssertionError("a trial ends through the ledger only")
        if self._trouble is not None:  # Optuna tells even where the sampler's last words could not be written
            raise self._trouble
        failpoint("tell.after_trial")
        with self.carrying(self._ending), self._write("ending a trial"):
            return self._inner.set_trial_state_values(trial_id, state, values)

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        with self._write("writing an intermediate value"):
            self._inner.set_trial_intermediate_value(trial_id, step, intermediate_value)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        with self._write("writing a trial attribute"):
            self._inner.set_trial_user_attr(trial_id, key, value)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        with self._write("writing a trial attribute"):
            self._inner.set_trial_system_attr(trial_id, key, value)

    # --- reads -------------------------------------------------------------------------

    def get_study_id_from_name(self, study_name: str) -> int:
        with self._translated():
            return self._inner.get_study_id_from_name(study_name)

    def get_study_name_from_id(self, study_id: int) -> str:
        with self._translated():
            return self._inner.get_study_name_from_id(study_id)

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        with self._reading("The study"):
            return self._inner.get_study_directions(study_id)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        with self._reading("The study"):
            return self._inner.get_study_user_attrs(study_id)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        with self._reading("The study"):
            return self._inner.get_study_system_attrs(study_id)

    def get_all_studies(self) -> list[FrozenStudy]:
        with self._reading("The studies"):
            return self._inner.get_all_studies()

    def get_trial(self, trial_id: int) -> FrozenTrial:
        for held in reversed(self._held or ()):  # those who ask are the newest
            if held._trial_id == trial_id:
                return held
        with self._reading("A trial"):
            return self._past.shown(self._inner.get_trial(trial_id))

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        with self._translated():
            return self._inner.get_trial_id_from_study_id_trial_number(study_id, trial_number)


@contextmanager
def _without_collecting() -> Iterator[None]:
    """A first look at thousands of trials makes half a million objects; to search them for garbage doubles its time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


_deepcopy = deepcopy
