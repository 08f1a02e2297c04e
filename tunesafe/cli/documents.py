"""Values as JSON: what ``--json`` prints. Keys are stable; new ones may be added.

Numbers that JSON cannot spell are text: ``"nan"``, ``"inf"``, ``"-inf"``. Times are ISO 8601
in UTC, sizes and counts what their names say, absent values ``null``.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from tunesafe.api import (
    CheckpointContent,
    CheckpointList,
    CheckpointView,
    PruneResult,
    StudyPlan,
    StudyStatus,
    TrialView,
    VerifiedCheckpoint,
)
from tunesafe.api.views import utc
from tunesafe.contracts import Event, LogChunk

__all__ = [
    "checkpoint_document",
    "checkpoints_document",
    "export_document",
    "log_document",
    "plan_document",
    "prune_document",
    "status_document",
    "to_json",
    "trial_document",
    "verified_document",
]


def to_json(document: Any) -> str:
    """A document as JSON text, over several lines.

    Example:
        >>> print(to_json({"value": float("nan")}))
        {
          "value": "nan"
        }
    """
    return json.dumps(_spelled(document), indent=2, allow_nan=False)


def status_document(status: StudyStatus) -> dict[str, Any]:
    """``tunesafe status --json``.

    ``study, storage, objective {metric, direction}, n_trials, ended, finished, paused, trials {waiting,
    running, interrupted, held, complete, pruned, failed}, best {number, value, virtual_epoch, parameters}
    or null, active [{number, state, attempt, examples_seen, worker, lease_seconds}], attempts, resumed,
    examples_seen, total_examples, virtual_epochs, live_seconds, timeout_seconds, notes {kind: count},
    events [{at, kind, number, details}], backup {url, newest, num_bytes, failing_since, why, lost} or
    null, blobs``, the newest event last.
    """
    best = status.best
    return {
        "study": status.name,
        "storage": status.storage,
        "objective": {"metric": status.metric, "direction": status.direction},
        "n_trials": status.n_trials,
        "ended": status.num_ended,
        "finished": status.finished,
        "paused": status.paused,
        "trials": {str(state): count for state, count in status.counts.items()},
        "best": best
        and {
            "number": best.number,
            "value": best.value,
            "virtual_epoch": best.selected_virtual_epoch,
            "parameters": dict(best.params),
        },
        "active": [_fields(trial) for trial in status.active],
        "attempts": status.num_attempts,
        "resumed": status.num_resumed,
        "examples_seen": status.examples_seen,
        "total_examples": status.total_examples,
        "virtual_epochs": status.virtual_epochs,
        "live_seconds": status.live_seconds,
        "timeout_seconds": status.timeout_seconds,
        "notes": dict(status.notes),
        "events": [_event_document(event) for event in status.events],
        "backup": status.backup
        and {
            **_fields(status.backup),
            "newest": _moment(status.backup.newest),
            "failing_since": _moment(status.backup.failing_since),
        },
        "blobs": status.blobs,
    }


def trial_document(trial: TrialView, events: Sequence[Event] = ()) -> dict[str, Any]:
    """``tunesafe show --json`` and ``best --json``.

    ``number, state, value, selected_virtual_epoch, parameters, reports [{virtual_epoch,
    examples_seen, metrics}], result, examples_seen, attempts, reason, traceback, started, ended,
    worker, events [{at, kind, number, details}]``.
    """
    return {
        "number": trial.number,
        "state": trial.state,
        "value": trial.value,
        "selected_virtual_epoch": trial.selected_virtual_epoch,
        "parameters": dict(trial.params),
        "reports": [
            {
                "virtual_epoch": report.virtual_epoch,
                "examples_seen": report.examples_seen,
                "metrics": dict(report.metrics),
            }
            for report in trial.reports
        ],
        "result": dict(trial.result),
        "examples_seen": trial.examples_seen,
        "attempts": trial.attempts,
        "reason": trial.reason,
        "traceback": trial.traceback,
        "started": _moment(trial.started),
        "ended": _moment(trial.ended),
        "worker": trial.worker,
        "events": [_event_document(event) for event in events],
    }


def log_document(number: int, chunks: Sequence[LogChunk]) -> dict[str, Any]:
    """``tunesafe logs --json``: ``number, attempts [{attempt, text}]``."""
    texts: dict[int, str] = {}
    for chunk in chunks:
        texts[chunk.attempt] = texts.get(chunk.attempt, "") + chunk.text
    return {"number": number, "attempts": [{"attempt": attempt, "text": text} for attempt, text in texts.items()]}


def export_document(folder: Path, files: Sequence[str], story: Mapping[str, Any]) -> dict[str, Any]:
    """``tunesafe export --json``: ``study, number, state, value, virtual_epoch, examples_seen, directory, files``.

    Args:
        folder: Where the files are, absolute.
        files: Their paths in it.
        story: What its ``trial.json`` holds.
    """
    return {
        **{key: story[key] for key in ("study", "number", "state", "value")},
        **story["checkpoint"],
        "directory": str(folder),
        "files": list(files),
    }


def plan_document(plan: StudyPlan) -> dict[str, Any]:
    """``tunesafe check --json``: the fields of :class:`tunesafe.api.StudyPlan`; ``num_batches`` by batch size."""
    return _fields(plan) | {"num_batches": {str(size): count for size, count in plan.num_batches.items()}}


def checkpoints_document(study: str, found: CheckpointList) -> dict[str, Any]:
    """``tunesafe checkpoints list --json``.

    ``study, checkpoints [{number, virtual_epoch, examples_seen, bytes, own_bytes, created, selected,
    weights_only}], bytes, stored {in_database, in_packs}, blobs``; the last says where the packs are if not
    beside the database.
    """
    return {
        "study": study,
        "checkpoints": [_checkpoint_document(checkpoint) for checkpoint in found.checkpoints],
        "bytes": found.num_bytes,
        "stored": _fields(found.stored),
        "blobs": found.blobs,
    }


def checkpoint_document(content: CheckpointContent) -> dict[str, Any]:
    """``tunesafe checkpoints show --json``.

    ``number, virtual_epoch, examples_seen, bytes, own_bytes, created, selected, weights_only,
    structure {bytes, hash}, tensors [{path, dtype, shape, bytes, hash}]``.
    """
    return {
        **_checkpoint_document(content.checkpoint),
        "structure": {"bytes": content.structure_bytes, "hash": content.structure_hash},
        "tensors": [
            {
                "path": tensor.path,
                "dtype": tensor.dtype,
                "shape": tensor.shape,
                "bytes": tensor.num_bytes,
                "hash": tensor.hash,
            }
            for tensor in content.tensors
        ],
    }


def verified_document(study: str, found: Sequence[VerifiedCheckpoint]) -> dict[str, Any]:
    """``tunesafe checkpoints verify --json``.

    ``study, intact, damaged, checkpoints [{number, virtual_epoch, examples_seen, bytes, damage, weights_only}]``;
    ``damage`` is ``null`` where there is none.
    """
    damaged = sum(checkpoint.damage is not None for checkpoint in found)
    return {
        "study": study,
        "intact": len(found) - damaged,
        "damaged": damaged,
        "checkpoints": [
            {
                "number": checkpoint.number,
                "virtual_epoch": checkpoint.virtual_epoch,
                "examples_seen": checkpoint.examples_seen,
                "bytes": checkpoint.num_bytes,
                "damage": checkpoint.damage,
                "weights_only": checkpoint.weights_only,
            }
            for checkpoint in found
        ],
    }


def prune_document(study: str, result: PruneResult) -> dict[str, Any]:
    """``tunesafe checkpoints prune --json``.

    ``study, dry_run, removed [{number, virtual_epoch, examples_seen, bytes, own_bytes, created, selected,
    weights_only}], thinned [as removed], freed {in_database, in_packs}, blobs``.
    """
    return {
        "study": study,
        "dry_run": result.dry_run,
        "removed": [_checkpoint_document(checkpoint) for checkpoint in result.removed],
        "freed": _fields(result.freed),
        "thinned": [_checkpoint_document(checkpoint) for checkpoint in result.thinned],
        "blobs": result.blobs,
    }


def _checkpoint_document(checkpoint: CheckpointView) -> dict[str, Any]:
    return {
        "number": checkpoint.number,
        "virtual_epoch": checkpoint.virtual_epoch,
        "examples_seen": checkpoint.examples_seen,
        "bytes": checkpoint.num_bytes,
        "own_bytes": checkpoint.own_bytes,
        "created": _moment(checkpoint.created),
        "selected": checkpoint.selected,
        "weights_only": checkpoint.weights_only,
    }


def _fields(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def _event_document(event: Event) -> dict[str, Any]:
    return {"at": _moment(utc(event.at)), "kind": event.kind, "number": event.number, "details": dict(event.details)}


def _moment(at: datetime | None) -> str | None:
    return at.isoformat() if at else None


def _spelled(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _spelled(item) for key, item in value.items()}
    return [_spelled(item) for item in value] if isinstance(value, list | tuple) else value
