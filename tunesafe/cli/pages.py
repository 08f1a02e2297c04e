"""Studies, trials and plans as pages of text. Nothing here prints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from tunesafe.api import (
    CheckpointContent,
    CheckpointList,
    CheckpointView,
    PruneResult,
    StudyPlan,
    StudyStatus,
    TrialState,
    TrialView,
    VerifiedCheckpoint,
)
from tunesafe.api.views import ENDED, BackupView, utc
from tunesafe.cli import render
from tunesafe.contracts import Event, Report

__all__ = [
    "checkpoint_page",
    "checkpoints_page",
    "plan_page",
    "prune_sentence",
    "removed_page",
    "status_page",
    "trial_page",
    "verified_line",
]

_NOTES = {
    "reclaimed": "times a trial was taken over from a worker that died",
    "lease_awaited": "times a worker waited for a lease to end, for nobody could tell whether its owner lived",
    "not_deterministic": "virtual epochs came out differently when trained again; see show",
    "damaged": "checkpoints were found damaged and passed over",
    "changed": "times the study file or the code was changed",
    "begun_again": "trials in mid-training began again after such a change",
    "storage_back": "times the database was away; nothing was lost",
    "storage_warning": "warnings about where the database is; see show or the first lines of run",
    "environment": "times it was continued with other versions or on another machine",
    "restored": "times it was brought back from its second place",
    "backup_failed": "times the copying to its second place failed for a while",
    "backup_lost": "times its second place was found to belong to another machine, which goes on with it",
    "disk_limit": "times its checkpoints grew beyond disk_limit: the least needed are given up since",
    "given_up": "checkpoints were given up, or all but their weights, for disk_limit",
    "over_disk_limit": "times its checkpoints stayed above disk_limit with nothing left to give up",
    "exhausted": "times the sampler had no further point: the study ends with the trials it has",
}
_SMALL = {"exact": "each is one batch", "whole": "some may have no batch of their own"}
"""What it means that virtual epochs are smaller than a batch, by ``budget.batching``."""


def status_page(status: StudyStatus) -> str:
    """What ``tunesafe status`` prints."""
    return "\n".join(_status_lines(status))


def _status_lines(status: StudyStatus) -> Iterator[str]:
    counts = {state: f"{count} {state}" for state, count in status.counts.items() if count}
    ended = ", ".join(text for state, text in counts.items() if state in ENDED)
    others = "".join(f", {text}" for state, text in counts.items() if state not in ENDED)
    ended = f" ({ended})" if ended else ""
    yield f"study {status.name}: {status.num_ended} of {status.n_trials} trials ended{ended}{others}"
    yield f"storage {status.storage}{'' if status.blobs is None else f', large checkpoints at {status.blobs}'}"
    if status.best is None:
        yield f"no complete trial yet; objective: {status.direction} {status.metric}"
    else:
        best = status.best
        of = f"  (virtual epoch {best.selected_virtual_epoch})" if best.selected_virtual_epoch is not None else ""
        yield f"best trial {best.number} with {status.metric} {render.number(best.value)}{of}"
        yield f"    {render.assignments(best.params)}"
    time = f"worked {render.duration(status.live_seconds)}"
    limit = f" of {render.duration(status.timeout_seconds)}" if status.timeout_seconds is not None else ""
    resumed = f", {status.num_resumed} trials resumed" if status.num_resumed else ""
    yield f"{time}{limit}, {render.examples(status.examples_seen)} examples, {status.num_attempts} attempts{resumed}"
    if status.paused and not status.finished:
        yield "paused: the timeout is used up; raise it and run again to continue"
    if status.backup is not None:
        yield _backup_line(status.backup)
    if status.active:
        yield ""
        yield _active_table(status)
    if status.notes:
        yield ""
        yield from (_note(kind, count, status.batching) for kind, count in status.notes.items())
    if status.events:
        yield ""
        yield _event_table(status.events)


def _backup_line(backup: BackupView) -> str:
    if backup.lost:
        return f"backup  {backup.why}"
    now = datetime.now(UTC)
    newest = "nothing copied yet"
    if backup.newest is not None:
        age = render.duration((now - backup.newest).total_seconds())
        newest = f"newest copy {age} old, {render.size(backup.num_bytes)}"
    fails = ""
    if backup.failing_since is not None:
        fails = f"; fails since {render.duration((now - backup.failing_since).total_seconds())}: {backup.why}"
    return f"backup  {backup.url}: {newest}{fails}"


def _note(kind: str, count: int, batching: str) -> str:
    if kind == "small_virtual_epochs":  # noted once, by the first trial it is true of
        return f"virtual epochs are smaller than the batch size of at least one trial: {_SMALL[batching]}"
    return f"{count} {_NOTES.get(kind, kind)}"


def _active_table(status: StudyStatus) -> str:
    def progress(seen: int) -> str:
        total = status.total_examples
        return f"{render.examples(seen)} of {render.examples(total)}" if total else render.examples(seen)

    rows = [
        (
            str(trial.number),
            str(trial.state),
            progress(trial.examples_seen),
            str(trial.attempt),
            trial.worker or "-",
            render.duration(trial.lease_seconds) if trial.state is TrialState.RUNNING else "-",
        )
        for trial in status.active
    ]
    return render.table(("trial", "state", "examples", "attempt", "worker", "lease"), rows)


def _event_table(events: Sequence[Event]) -> str:
    rows = [
        (
            render.moment(utc(event.at)),
            "-" if event.number is None else str(event.number),
            event.kind,
            render.shortened(_details(event)) or "-",
            "{host}:{pid}".format_map({"host": "-", "pid": "-", **event.details}),
        )
        for event in events
    ]
    return render.table(("time", "trial", "event", "details", "worker"), rows)


def _details(event: Event) -> str:
    return render.assignments(
        {key: value for key, value in event.details.items() if value is not None and key not in ("host", "pid")}
    )


def trial_page(trial: TrialView, events: Sequence[Event], metric: str) -> str:
    """What ``tunesafe show`` and ``best`` print.

    Args:
        trial: The trial.
        events: What happened to it.
        metric: The objective's metric; its column comes first.
    """
    return "\n".join(_trial_lines(trial, events, metric))


def _trial_lines(trial: TrialView, events: Sequence[Event], metric: str) -> Iterator[str]:
    value = f"  {metric} {render.number(trial.value)}" if trial.value is not None else ""
    of = f"  (virtual epoch {trial.selected_virtual_epoch})" if trial.selected_virtual_epoch is not None else ""
    yield f"trial {trial.number}  {trial.state}{value}{of}"
    if trial.reason:
        yield f"reason    {trial.reason}"
    for name, parameter in trial.params.items():
        yield f"    {name} = {parameter}"
    if trial.result:
        yield f"result    {render.assignments(trial.result)}"
    yield f"examples  {render.examples(trial.examples_seen)}"
    yield f"attempts  {trial.attempts}, the last by {trial.worker or '-'}"
    yield f"started   {render.moment(trial.started)}   ended {render.moment(trial.ended)}"
    if trial.reports:
        yield ""
        yield _report_table(trial.reports, metric)
    if events:
        yield ""
        yield _event_table(events)
    if trial.traceback:
        yield ""
        yield trial.traceback.rstrip()


def _report_table(reports: Sequence[Report], metric: str) -> str:
    others = dict.fromkeys(name for report in reports for name in report.metrics if name != metric)
    names = [metric, *others]
    rows = [
        (
            str(report.virtual_epoch),
            render.examples(report.examples_seen),
            *(render.number(report.metrics.get(name)) for name in names),
        )
        for report in reports
    ]
    return render.table(("virtual epoch", "examples", *names), rows)


def plan_page(plan: StudyPlan) -> str:
    """What ``tunesafe check`` prints."""
    return "\n".join(_plan_lines(plan))


def _plan_lines(plan: StudyPlan) -> Iterator[str]:
    yield f"study {plan.name} is valid; nothing was started or created"
    yield f"trainable  {plan.trainable}"
    yield f"storage    {plan.storage}"
    yield f"objective  {plan.objective}"
    when = f" ({', '.join(plan.conditional)} only under a condition)" if plan.conditional else ""
    yield f"trials     {plan.n_trials} over {', '.join(plan.searched) or 'no searched parameter'}{when}"
    yield f"sampler    {plan.sampler}, pruner {plan.pruner}"
    if plan.total_examples is None:
        length = "its length is known once the first trial has seen the training set"
    else:
        length = f"{render.examples(plan.total_examples)} examples"
    yield f"each trial {length}, {plan.virtual_epochs} virtual epochs"
    for size, count in plan.num_batches.items():
        yield f"           batch size {size}: {count} {'batch' if count == 1 else 'batches'} in the first virtual epoch"


def checkpoints_page(found: CheckpointList) -> str:
    """What ``tunesafe checkpoints list`` prints."""
    stored, listed = found.stored, len(found.checkpoints)
    states = f"{listed} {'state' if listed == 1 else 'states'} of {render.size(found.num_bytes)}"
    kept = f"the study stores {render.size(stored.in_database + stored.in_packs)}, equal bytes once"
    where = f"{render.size(stored.in_database)} in the database, {_in_packs(stored.in_packs, found.blobs)}"
    totals = f"{states}; {kept}: {where}"
    return f"{_checkpoint_table(found.checkpoints)}\n\n{totals}" if found.checkpoints else totals


def _in_packs(num_bytes: int, blobs: str | None) -> str:
    return f"{render.size(num_bytes)} {'in packs beside it' if blobs is None else f'at {blobs}'}"


def _checkpoint_table(checkpoints: Sequence[CheckpointView]) -> str:
    rows = [
        (
            str(checkpoint.number),
            str(checkpoint.virtual_epoch),
            render.examples(checkpoint.examples_seen),
            f"{checkpoint.num_bytes:,}",
            f"{checkpoint.own_bytes:,}",
            render.moment(checkpoint.created),
            _marks(checkpoint),
        )
        for checkpoint in checkpoints
    ]
    return render.table(("trial", "virtual epoch", "examples", "bytes", "its alone", "made", ""), rows)


def _marks(checkpoint: CheckpointView) -> str:
    marks = ("selected" * checkpoint.selected, "weights only" * checkpoint.weights_only)
    return ", ".join(filter(None, marks))


def checkpoint_page(content: CheckpointContent) -> str:
    """What ``tunesafe checkpoints show`` prints."""
    checkpoint = content.checkpoint
    marks = f"  {_marks(checkpoint)}" if _marks(checkpoint) else ""
    rows = [
        (tensor.path, tensor.dtype, _shape(tensor.shape), f"{tensor.num_bytes:,}", tensor.hash)
        for tensor in content.tensors
    ]
    return "\n".join(
        (
            f"trial {checkpoint.number}  virtual epoch {checkpoint.virtual_epoch}  "
            f"at example {render.examples(checkpoint.examples_seen)}{marks}",
            f"made      {render.moment(checkpoint.created)}",
            f"bytes     {checkpoint.num_bytes:,}, {checkpoint.own_bytes:,} of them in no other checkpoint",
            f"structure {content.structure_bytes:,} bytes  {content.structure_hash}",
            "",
            render.table(("tensor", "type", "shape", "bytes", "hash"), rows),
        )
    )


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def verified_line(checkpoint: VerifiedCheckpoint) -> str:
    """What ``tunesafe checkpoints verify`` prints of one; of a damaged one its error's first sentence."""
    if checkpoint.damage is not None:
        return checkpoint.damage.partition("\n")[0]
    what = " (weights only)" if checkpoint.weights_only else ""
    return f"Checkpoint of trial {checkpoint.number} at example {checkpoint.examples_seen:,}{what} is intact."


def removed_page(result: PruneResult) -> str:
    """What ``tunesafe checkpoints prune`` prints: what it removed, and what it kept only the weights of."""
    tables = [_checkpoint_table(result.removed)] if result.removed else []
    if result.thinned:
        tables.append(f"only the weights are kept of:\n{_checkpoint_table(result.thinned)}")
    return "\n\n".join(tables)


def prune_sentence(result: PruneResult) -> str:
    """What ``tunesafe checkpoints prune`` says at its end."""
    count, thinned, freed = len(result.removed), len(result.thinned), result.freed
    if not count and not thinned and freed.in_database + freed.in_packs == 0:
        return "nothing to remove: trials that are over keep what checkpoint.keep asks for, and nothing else is left"
    did, does = ("would remove", "would free") if result.dry_run else ("removed", "freed")
    in_database = f"{render.size(freed.in_database)} in the database"
    reused = " (used again by what comes; a SQLite file does not shrink)" if freed.in_database else ""
    others = f", all but the weights of {thinned} more" if thinned else ""
    return (
        f"{did} {count} {'checkpoint' if count == 1 else 'checkpoints'}{others}; "
        f"{does} {in_database}{reused} and {_in_packs(freed.in_packs, result.blobs)}"
    )
