"""Optuna's storage with our claim and fence inside its own transactions.

Every write of this process goes through here, and every transaction that writes also runs
a statement of ours before it commits: take a number, check the fence, insert a record. A
worker whose trial another has claimed therefore cannot write to Optuna's tables at all,
and a report costs one commit, not two.

Relies on a few private names of ``RDBStorage``; ``tests/contract`` pins them.
"""

# ruff: noqa: D102  what each method does is documented by BaseStorage
from __future__ import annotations

import gc
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy, deepcopy
from typing import Any

import sqlalchemy as sa
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage, get_storage
from optuna.storages._rdb.models import NOT_FOUND_MSG
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, ExceptionContext, event
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from tunesafe.errors import DamagedError, StorageError
from tunesafe.failpoints import failpoint
from tunesafe.store.engine import apply_pragmas, connect_kwargs
from tunesafe.store.faults import TransientStorageError, as_storage_error, translated
from tunesafe.store.urls import canonical_url, display_url

__all__ = ["Carried", "FencedStorage", "number_of_newest_trial"]

Carried = Callable[[Connection], None]
"""A statement of ours that runs inside Optuna's transaction, last before its commit."""


class _Rdb(RDBStorage):
    """Optuna's, which gives its connections back where it cannot be opened: opening is tried again and again."""

    def __init__(self, url: str, *, engine_kwargs: dict[str, Any]) -> None:
        try:
            super().__init__(url, engine_kwargs=engine_kwargs)
        except BaseException:
            if hasattr(self, "engine"):
                self.engine.dispose()
            raise


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
        with self._translated():
            self._rdb = self._opened(dict(connect_kwargs(url)))
            apply_pragmas(self._rdb.engine)
            self._rdb.engine.dispose()  # the connections it was opened with know no pragmas
            # Optuna closes every session after its commit: to expire what was read takes a quarter of a cold load.
            self._rdb.scoped_session.remove()
            self._rdb.scoped_session.configure(expire_on_commit=False)
            self._inner = get_storage(self._rdb)
        self._carried: Carried | None = None
        self._guard: Carried | None = None
        self._ending: Carried | None = None
        self._armed: Carried | None = None
        self._current: Mapping[str, BaseDistribution] = {}
        self._shown: dict[int, FrozenTrial] = {}
        self._held: list[FrozenTrial] | None = None
        self._trouble: StorageError | None = None
        self._written_before = False
        event.listen(self._rdb.scoped_session, "before_commit", self._before_commit)
        event.listen(self._rdb.engine, "handle_error", self._on_error)

    def _opened(self, engine_kwargs: dict[str, Any]) -> RDBStorage:
        try:
            return _Rdb(_template(self._url), engine_kwargs=engine_kwargs)
        except (RuntimeError, AssertionError) as error:  # another version's tables, or a damaged row that says which
            raise StorageError(
                f"Optuna cannot use its tables in {display_url(self._url)}: {error}. Nothing was "
                "changed. Use the Optuna they were made with, or restore the database from a backup."
            ) from error

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

    def _on_error(self, context: ExceptionContext) -> StorageError | None:
        """Errors of the driver become ours before Optuna sees them: it would try to create a trial five times.

        Not those of integrity, which it understands.
        """
        error = context.sqlalchemy_exception
        return None if error is None or isinstance(error, IntegrityError) else as_storage_error(error, self._url)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            with translated(self._url):
                try:
                    yield
                except StorageInternalError as error:
                    raise error.__cause__ or StorageError(str(error)) from error
        except StorageError as error:
            self._trouble = error
            raise

    @contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        """Let damaged rows of Optuna's be an error of ours; that there is no such study or trial is an answer."""
        with self._translated():
            try:
                yield
            except (ValueError, TypeError, LookupError, AttributeError, OverflowError, AssertionError) as error:
                if isinstance(error, KeyError) and error.args == (NOT_FOUND_MSG,):
                    raise
                raise DamagedError(
                    f"{what} cannot be read, a row in Optuna's tables is damaged: {type(error).__name__}: {error}. "
                    "Nothing was changed, and what other rows hold is not affected. Restore the database from a "
                    "backup, or begin under a new name."
                ) from error

    # --- what samplers and pruners may see ---------------------------------------------

    def show(self, distributions: Mapping[str, BaseDistribution]) -> None:
        """Set how past trials look: with the current distributions.

        A parameter whose range was widened keeps its place in the joint draw only if all past
        trials agree on its distribution.
        """
        if distributions != self._current:
            self._current = distributions
            self._shown.clear()

    @contextmanager
    def held_still(self, study_id: int) -> Iterator[None]:
        """Read all trials once, and show them so to everybody who asks inside the block."""
        self._held = self.get_all_trials(study_id, deepcopy=False)
        try:
            yield
        finally:
            self._held = None

    def _show(self, trial: FrozenTrial) -> FrozenTrial:
        known = self._shown.get(trial._trial_id)
        if known is not None:
            return known
        measured = (*trial.intermediate_values.values(), *(trial._values or ()))
        if not all(isinstance(value, float) for value in measured):  # SQLite keeps whatever is put into a column
            raise ValueError(f"trial {trial.number} has a value that is no number")
        shown = trial
        if not all(_same(self._current.get(name, own), own) for name, own in trial.distributions.items()):
            shown = self._as_if_now(trial)
        if trial.state.is_finished():  # comparing thousands of trials' distributions takes longer than drawing
            self._shown[trial._trial_id] = shown
        return shown

    def _as_if_now(self, trial: FrozenTrial) -> FrozenTrial:
        shown, params = copy(trial), trial.params
        shown._distributions, shown.params = {}, {}
        for name, own in trial.distributions.items():
            current = self._current.get(name, own)
            if _fits(current, params[name]):
                shown._distributions[name], shown.params[name] = current, params[name]
            elif type(current) is type(own) and not isinstance(own, CategoricalDistribution):
                shown._distributions[name], shown.params[name] = own, params[name]
            # Else it is of a kind that the parameter no longer is: as if the trial had not had it.
        return shown

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
                trials = self._inner.get_all_trials(study_id, deepcopy=False, states=states)
                known = self._shown
                shown = [known.get(trial._trial_id) or self._show(trial) for trial in trials]
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
            return self._show(self._inner.get_trial(trial_id))

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


def _template(url: sa.URL) -> str:
    """The address as Optuna wants it: it fills in braces."""
    return url.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")


def _same(one: BaseDistribution, other: BaseDistribution) -> bool:
    # What is equal member by member is equal to Optuna, too, which compares choices one by one in Python.
    return one is other or (type(one) is type(other) and one.__dict__ == other.__dict__) or one == other


def _fits(distribution: BaseDistribution, value: Any) -> bool:
    try:
        return distribution._contains(distribution.to_internal_repr(value))
    except (TypeError, ValueError):
        return False


def number_of_newest_trial(connection: Connection, study_id: int) -> int:
    """The number Optuna has just given, read inside its own transaction."""
    query = sa.text("SELECT MAX(number) FROM trials WHERE study_id = :study_id")
    return int(connection.execute(query, {"study_id": study_id}).scalar_one())


_deepcopy = deepcopy
