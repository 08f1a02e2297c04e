"""Running and checking a study: the part of the Python door that needs user code, torch and Optuna."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

from tunesafe.api.notebooks import notebook_source
from tunesafe.api.views import RunResult, StudyPlan
from tunesafe.clock import Plan
from tunesafe.contracts import Notice, Position
from tunesafe.errors import SpecError, StorageError
from tunesafe.executors import finished_untouched, run_study, supervise
from tunesafe.spec import CategoricalParameter, IntParameter, Searched, StudySpec, mask_password
from tunesafe.store import studies
from tunesafe.store.depot_urls import open_depot
from tunesafe.store.depots import Depot
from tunesafe.store.engine import check_address, read_only_engine, reading
from tunesafe.study.copying import refuse_taken_place
from tunesafe.study.settling import Program
from tunesafe.trial.importing import is_importing
from tunesafe.trial.sources import fingerprint, sources
from tunesafe.worker.judging import judges

__all__ = ["check", "run"]

_log = logging.getLogger(__name__)

_Function = Callable[..., Any]


def run(
    spec: StudySpec,
    folder: Path,
    text: str | None,
    function: _Function | None,
    notify: Callable[[Notice], None],
    accept_changes: bool,
) -> RunResult:
    """Start a study, continue it, or find that there is nothing to do.

    Args:
        spec: The study file's content.
        folder: What relative paths are relative to.
        text: The study file as written, if there is one.
        function: The trainable itself, if it was given from Python.
        notify: Told what happens.
        accept_changes: Go on after a breaking change.

    Raises:
        SpecError: Something the user has to change, e.g. a call that every worker would repeat.
        StorageError: The database cannot be used.
    """
    if is_importing():
        raise SpecError(
            f"study {spec.name!r} was to be run while its training code was being imported, as every worker does it. "
            "Nothing was started. Put what only the script itself is to do under `if __name__ == '__main__':`."
        )
    program = _program(spec, folder, text, function)
    watch = _harmless(notify)
    new = not _exists(spec)
    untouched = None if new else finished_untouched(spec, program, watch)
    if untouched is not None:
        return RunResult(untouched.exit_code, untouched.message)
    if spec.blobs is not None:
        _try(open_depot(spec.blobs, quick=True))
    if spec.backup is not None:
        open_depot(spec.backup.url)  # refuses what cannot be one here: a library that is missing
        if new:
            refuse_taken_place(spec)
    if function is not None and (spec.trainable is None or spec.n_workers == 1):
        result = run_study(spec, lambda: function, program, folder=folder, watch=watch, accept_changes=accept_changes)
    else:
        result = supervise(spec, program, folder=folder, watch=watch, new=new, accept_changes=accept_changes)
    return RunResult(result.exit_code, result.message)


def _try(depot: Depot) -> None:
    """Write to a place and remove it again: what cannot be used is known before anything is begun.

    Raises:
        DepotError: If it cannot be used.
    """
    name = f"tunesafe-probe/{uuid4().hex}"
    depot.put(name, b"")
    depot.delete([name])


def check(spec: StudySpec, folder: Path, function: _Function | None) -> StudyPlan:
    """Validate what can be validated without training, and say what the study will do; nothing is created."""
    found = _trainable(spec, folder, function)
    _, pruner = judges(spec)
    with spec.placing():
        check_address(spec.storage)
    searched = {name: value for name, value in spec.parameters.items() if isinstance(value, Searched)}
    total = _total_examples(spec)
    return StudyPlan(
        name=spec.name,
        storage=mask_password(spec.storage),
        trainable=spec.trainable or str(getattr(found, "__qualname__", found)),
        objective=f"{spec.objective.direction} {spec.objective.metric}",
        n_trials=spec.n_trials,
        searched=tuple(searched),
        conditional=tuple(name for name, parameter in searched.items() if parameter.when),
        sampler=spec.sampler.name,
        pruner=type(pruner).__name__,
        virtual_epochs=spec.budget.virtual_epochs,
        total_examples=total,
        num_batches={} if total is None else {size: _num_batches(spec, total, size) for size in _batch_sizes(spec)},
    )


def _harmless(notify: Callable[[Notice], None]) -> Callable[[Notice], None]:
    """A watcher that fails (a closed terminal, a full pipe) watches no longer; the trial at hand must not notice."""
    watching = True

    def watch(notice: Notice) -> None:
        nonlocal watching
        if watching:
            try:
                notify(notice)
            # Whatever it is: it happened to somebody else.
            except Exception:  # noqa: BLE001
                watching = False
                _log.exception("whoever watched this run has failed; it goes on without being watched")

    return watch


def _total_examples(spec: StudySpec) -> int | None:
    budget = spec.budget
    if budget.examples is None and budget.examples_per_pass is None:
        return None
    return budget.total_examples(budget.examples_per_pass or 0)


def _batch_sizes(spec: StudySpec) -> list[int]:
    """The smallest and the largest batch size, if ``batch_size`` is a parameter."""
    match spec.parameters.get("batch_size"):
        case IntParameter(low=low, high=high):
            return sorted({low, high})
        case CategoricalParameter(choices=choices):
            sizes = [choice for choice in choices if isinstance(choice, int)]
            return sorted({min(sizes), max(sizes)})
        case int(size):
            return [size]
        case _:
            return []


def _num_batches(spec: StudySpec, total: int, batch_size: int) -> int:
    plan = Plan(total, spec.budget.virtual_epochs, batch_size, spec.budget.batching)
    return sum(1 for _ in plan.epoch_batches(Position(0, 0)))


def _exists(spec: StudySpec) -> bool:
    try:
        engine = read_only_engine(spec.storage)
    except StorageError:
        return False
    try:
        with reading(engine) as connection:
            return studies.has_begun(connection, spec.name)
    except StorageError:
        return False
    finally:
        engine.dispose()


def _trainable(spec: StudySpec, folder: Path, function: _Function | None) -> _Function:
    if function is not None:
        return function
    assert spec.trainable is not None, "a study file without one is refused, and Study() asks for one"
    # Brings torch, which a supervisor does without.
    from tunesafe.trial.resolve import resolve  # noqa: PLC0415

    with spec.placing("trainable"):
        return resolve(spec.trainable, folder)


def _program(spec: StudySpec, folder: Path, text: str | None, function: _Function | None) -> Program:
    if spec.trainable is not None:
        with spec.placing("trainable"):
            texts = sources(spec.trainable, folder)
        return Program(text or spec.to_json(), texts, fingerprint(texts))
    texts = {"notebook.py": notebook_source(function)}
    try:
        mark = fingerprint(texts)
    except SpecError:  # part of a larger statement, such as a lambda: its text has to do
        mark = fingerprint({"notebook.py": repr(texts)})
    return Program(text or spec.to_json(), texts, mark)
