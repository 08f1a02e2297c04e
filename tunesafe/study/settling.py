"""What a study file and its code mean for the study that is there: begin it, go on, or refuse.

Changes are classified, shown, applied or refused here, in the transaction in which a study
is opened; where nothing has begun, every change is harmless.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import unified_diff
from uuid import uuid4

from sqlalchemy import Connection

from tunesafe.contracts import Event
from tunesafe.errors import ChangeRefusedError
from tunesafe.spec import Change, ChangeKind, Settled, StudySpec, classify, render_diff
from tunesafe.store import studies, tallies
from tunesafe.store.events import append_event, newest_event_of
from tunesafe.study import environment, lifecycle
from tunesafe.study.beginning_again import begin_again, draw_again
from tunesafe.study.sampling import grid_size
from tunesafe.study.suggest import distributions

__all__ = ["Program", "changes_since", "note", "settle"]

_DRAWN = ("parameters", "seed", "sampler", "initial_trials")
"""Keys that trials which have begun, results or not, were drawn by: under others, what is not drawn to its end is
drawn again."""
_MEASURED_BY = ("budget", "objective")
"""Keys that give records and checkpoints their meaning: under others, what is not finished begins again."""
_LOCAL = ("n_workers", "storage")
"""Keys that every host sets for itself: a host that joins must not stop the others' workers."""


@dataclass(frozen=True, slots=True)
class Program:
    """What defines a study beside its parameters: the words and the code as they are now.

    Args:
        source_text: The study file as written.
        sources: The trainable's modules, path to text.
        fingerprint: Of their syntax trees; comments do not change it.
    """

    source_text: str
    sources: Mapping[str, str]
    fingerprint: str


def settle(
    connection: Connection, spec: StudySpec, program: Program, accept_changes: bool
) -> tuple[studies.StudyRow, list[Change]]:
    """Write the study's row, or bring it up to date.

    Args:
        connection: In a write transaction.
        spec: The study file.
        program: Its text and the trainable's sources.
        accept_changes: Go on although a change makes finished trials mean something else.

    Returns:
        The row, and what changed since the last opening.

    Raises:
        ChangeRefusedError: If a breaking change is not accepted.
        SpecError: If it asks for fewer trials than have begun.
    """
    row = studies.find_study(connection, spec.name)
    here = environment.describe()
    if row is None:
        return _create(connection, spec, program, here), []
    changes = changes_since(connection, row, spec, program)
    _refuse_fewer(connection, row, spec)
    refused = [change for change in changes if change.kind is ChangeKind.BREAKING]
    if refused and not accept_changes:
        raise ChangeRefusedError(_refusal(spec, refused))
    _fit_numbers(connection, row, spec, changes)
    if changes:
        revision = studies.replace_spec(
            connection,
            row.uuid,
            row.revision,
            direction=spec.objective.direction,
            spec_json=spec.to_json(),
            source_text=program.source_text,
            fingerprint={"sources": program.fingerprint},
            threads_per_worker=spec.threads_per_worker,
        )
        studies.save_sources(connection, row.uuid, program.fingerprint, program.sources)
        note(connection, row.uuid, "changed", {"changes": render_diff(changes), "revision": revision})
        # Without progress every change is harmless, and yet a trial may be in its first virtual epoch somewhere.
        weighty = refused if tallies.any_progress(connection, row.uuid) else changes
        if any(change.key.startswith(_MEASURED_BY) for change in weighty):
            begin_again(connection, row.uuid, spec.name)
        if any(change.key.startswith(_DRAWN) for change in refused):
            draw_again(connection, row.uuid, spec.name)
        row = replace(row, revision=revision, threads_per_worker=spec.threads_per_worker or row.threads_per_worker)
    if moved := environment.differences(row.environment, here):
        _note_once(connection, row.uuid, "environment", {"differences": moved})
    return row, changes


def _create(
    connection: Connection, spec: StudySpec, program: Program, here: Mapping[str, str | None]
) -> studies.StudyRow:
    row = studies.create_study(
        connection,
        uuid=uuid4().hex,
        name=spec.name,
        direction=spec.objective.direction,
        spec_json=spec.to_json(),
        source_text=program.source_text,
        fingerprint={"sources": program.fingerprint},
        environment=here,
    )
    share = max((os.cpu_count() or 1) // spec.n_workers, 1)
    threads = studies.settle_threads(connection, row.uuid, spec.threads_per_worker or share)
    studies.save_sources(connection, row.uuid, program.fingerprint, program.sources)
    studies.ensure_numbers(connection, row.uuid, _num_trials(spec))
    return replace(row, threads_per_worker=threads)


def changes_since(connection: Connection, row: studies.StudyRow, spec: StudySpec, program: Program) -> list[Change]:
    """What is other than it was when the study was opened last; nothing is written."""
    tally = lifecycle.Tally(**tallies.count_by_standing(connection, row.uuid))
    begun = tallies.highest_begun(connection, row.uuid) + 1
    settled = Settled(begun, row.examples_per_pass, row.threads_per_worker)
    recorded_spec = StudySpec.from_json(row.spec_json, storage=spec.storage, folder=spec.folder)
    changes = [change for change in classify(recorded_spec, spec, settled) if change.key not in _LOCAL]
    # A study that stopped over exceptions waits for a fix; one without results has nothing to protect.
    fixing = lifecycle.standing(tally, spec.max_failures) is lifecycle.Standing.FAILING
    progress = tallies.any_progress(connection, row.uuid)
    if not progress:
        changes = [change if begun and change.key.startswith(_DRAWN) else change.harmless() for change in changes]
    recorded = str(row.fingerprint["sources"])
    if program.fingerprint != recorded:
        before = studies.load_sources(connection, row.uuid, recorded)
        kind = ChangeKind.HARMLESS if fixing or not progress else ChangeKind.BREAKING
        changes = [*changes, Change("trainable", "", _diff(before, program.sources), kind, "changed code")]
    return changes


def _refuse_fewer(connection: Connection, row: studies.StudyRow, spec: StudySpec) -> None:
    highest = tallies.highest_begun(connection, row.uuid)
    if highest >= spec.n_trials:
        raise spec.error(
            "n_trials",
            f"n_trials: {spec.n_trials}, but trial {highest} has begun; no trial is ever removed. "
            f"Give at least {highest + 1}, or start a study with a new name.",
        )


def _fit_numbers(connection: Connection, row: studies.StudyRow, spec: StudySpec, changes: Sequence[Change]) -> None:
    studies.drop_free_numbers(connection, row.uuid, _num_trials(spec))
    exhausted = _is_exhausted(connection, row.uuid)
    if exhausted and any(change.key.startswith(("parameters", "sampler")) for change in changes):
        note(connection, row.uuid, "reopened", {})
        exhausted = False
    if not exhausted:
        studies.ensure_numbers(connection, row.uuid, _num_trials(spec))


def _num_trials(spec: StudySpec) -> int:
    """As many as the study file asks for; a grid has no more than its points, beside initial trials."""
    points = grid_size(spec.sampler.name, spec.sampler.options, distributions(spec))
    return spec.n_trials if points is None else min(spec.n_trials, points + len(spec.initial_trials))


def _is_exhausted(connection: Connection, uuid: str) -> bool:
    """Whether the sampler had no further point, and nothing has given it any since."""
    ended, reopened = (tallies.count_events(connection, uuid, kind) for kind in ("exhausted", "reopened"))
    return ended > reopened


def _refusal(spec: StudySpec, refused: list[Change]) -> str:
    return (
        f"study {spec.name!r} has results that these changes would make mean something else:\n"
        f"{render_diff(refused)}\n"
        "Nothing was started or changed. Once accepted, the change is recorded; finished trials stay as they are"
        f"{_meanwhile(refused)}."
    )


def _meanwhile(refused: Sequence[Change]) -> str:
    """What becomes of trials in mid-training once the change is accepted."""
    if any(change.key.startswith(_MEASURED_BY) for change in refused):
        return ", and trials in mid-training begin again"
    return ", and trials in mid-training go on from where they are"


def _diff(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    lines: list[str] = []
    for path in sorted({*before, *after}):
        old, new = before.get(path, "").splitlines(), after.get(path, "").splitlines()
        lines += unified_diff(old, new, f"{path} (recorded)", f"{path} (now)", lineterm="")
    return "\n".join(lines)


def _note_once(connection: Connection, uuid: str, kind: str, details: dict[str, object]) -> None:
    newest = newest_event_of(connection, uuid, kind)
    if newest is None or newest.details != details:
        note(connection, uuid, kind, details)


def note(connection: Connection, uuid: str, kind: str, details: dict[str, object]) -> None:
    """Keep an event of the study as a whole."""
    # An opening is repeated where the reply to its COMMIT was lost.
    append_event(connection, uuid, Event(kind, None, details), again=True)
