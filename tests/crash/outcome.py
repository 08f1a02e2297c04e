"""All that a study has come to, as plain values two studies can be compared by.

Read from the outside: Optuna's tables through plain Optuna, ours through the store. Floats
become text that tells every bit apart; tensors become their hashes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

__all__ = ["differences", "flaws", "read_outcome", "without_spare_checkpoints"]

Outcome = dict[str, Any]


def read_outcome(folder: Path) -> Outcome:
    """Read the one study in a folder."""
    import optuna

    from tunesafe.store.engine import read_only_engine, reading
    from tunesafe.store.studies import find_study

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study_file = json.loads((folder / "study.yaml").read_text())
    name = study_file["name"]
    url = study_file.get("storage", f"sqlite:///{folder / name}.db")
    study = optuna.load_study(study_name=name, storage=url)
    engine = read_only_engine(url)
    with reading(engine) as connection:
        row = find_study(connection, name)
        assert row is not None
        ours = _ours(connection, row.uuid, folder)
    complete = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    return {
        "trials": {str(trial.number): _trial(trial) for trial in study.trials},
        "numbers": [trial.number for trial in study.trials],
        "best": study.best_trial.number if complete else None,
        "checkpoints": _checkpoints(engine, row.uuid, folder, study_file.get("blobs")),
        "examples_per_pass": row.examples_per_pass,
        **ours,
    }


def _trial(trial: Any) -> Outcome:
    attributes = {key: value for key, value in trial.user_attrs.items() if key != "attempts"}
    return {
        "state": trial.state.name,
        "values": _exact(trial.values),
        "params": _exact(trial.params),
        "distributions": {name: repr(distribution) for name, distribution in sorted(trial.distributions.items())},
        "intermediate_values": _exact(sorted(trial.intermediate_values.items())),
        "user_attributes": _exact(attributes),
        "system_attributes": _exact(trial.system_attrs),
    }


def _ours(connection: Any, uuid: str, folder: Path) -> Outcome:
    from tunesafe.store.events import events_of
    from tunesafe.store.records import all_records
    from tunesafe.store.trial_rows import trial_rows

    records: dict[str, list[str]] = {}
    for number, record in all_records(connection, uuid):
        writes = [[write.key, write.value] for write in record.writes]
        report = record.report
        told = [
            report.virtual_epoch,
            report.examples_seen,
            dict(report.metrics),
            record.verdict,
            record.improved,
            writes,
        ]
        records.setdefault(str(number), []).append(_exact(told))
    rows = {}
    for row in trial_rows(connection, uuid):
        outcome = asdict(row.outcome) if row.outcome is not None else None
        if outcome is not None and outcome["traceback"] is not None:
            outcome["traceback"] = outcome["traceback"].replace(str(folder), "FOLDER")
        ended = {"phase": str(row.phase), "params": row.params, "outcome": outcome, "examples_seen": row.examples_seen}
        rows[str(row.number)] = _exact(ended)
    wrong = [event.kind for event in events_of(connection, uuid) if event.kind in ("not_deterministic", "damaged")]
    return {"records": records, "rows": rows, "wrong_events": wrong}


def _checkpoints(engine: Any, uuid: str, folder: Path, blobs: str | None) -> Outcome:
    """Every kept checkpoint: loaded, verified, decoded, and hashed tensor by tensor."""
    from tunesafe.spec.backup import resolve_place
    from tunesafe.state.codec import decode
    from tunesafe.store.checkpoints import CheckpointStore
    from tunesafe.store.depot_urls import packs_of

    place = None if blobs is None else resolve_place(blobs, folder)
    store = CheckpointStore(engine, uuid, packs_of(engine.url, uuid, place))
    kept: dict[str, Any] = {}
    for info in store.infos():
        state = store.load(info)
        tensors = [None if data is None else hashlib.sha256(data).hexdigest()[:16] for data in state.tensors]
        decode(state.structure, state.tensors)
        position = f"example {info.position.examples_seen} virtual epoch {info.position.virtual_epoch}"
        kept.setdefault(str(info.number), {})[position] = {"structure": state.structure, "tensors": tensors}
    return kept


def _exact(value: Any) -> str:
    """JSON, in which a float is the shortest text that reads back to the same bits."""
    return json.dumps(value, sort_keys=True, default=str)


def without_spare_checkpoints(found: Outcome, expected: Outcome, most: int) -> Outcome:
    """An outcome as it is without what a signal adds: a checkpoint at a boundary where none was due.

    If that boundary is the trial's best, its checkpoint is kept, in the place of the one that was the best of
    those that were due.

    Args:
        found: Of a study that was interrupted by signals.
        expected: Of the one that was not.
        most: How many signals there were.
    """
    kept = {number: dict(checkpoints) for number, checkpoints in found["checkpoints"].items()}
    for number, due in expected["checkpoints"].items():
        own = kept.get(number, {})
        spare, replaced = sorted(own.keys() - due.keys()), sorted(due.keys() - own.keys())
        if len(replaced) <= len(spare) <= most:
            most -= len(spare)
            kept[number] = {position: own.get(position, due.get(position)) for position in due}
    return {**found, "checkpoints": kept}


def differences(expected: Outcome, found: Outcome) -> list[str]:
    """Where two outcomes differ, one line each."""
    return list(_differences("", expected, found))


def _differences(path: str, expected: Any, found: Any) -> Iterator[str]:
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in sorted({*expected, *found}):
            here = f"{path}/{key}"
            if key not in expected or key not in found:
                yield f"{here}: {'missing' if key in expected else 'not in the uninterrupted study'}"
            else:
                yield from _differences(here, expected[key], found[key])
    elif expected != found:
        yield f"{path}: {str(expected)[:300]} became {str(found)[:300]}"


def flaws(outcome: Outcome, num_trials: int) -> list[str]:
    """What no finished study may have, whatever it is compared with."""
    found = []
    if outcome["numbers"] != list(range(num_trials)):
        found.append(f"trials are numbered {outcome['numbers']}, not 0 to {num_trials - 1}")
    unfinished = [n for n, trial in outcome["trials"].items() if trial["state"] in ("RUNNING", "WAITING")]
    if unfinished:
        found.append(f"trials {', '.join(unfinished)} are not told to Optuna")
    untold = [n for n, row in outcome["rows"].items() if '"phase": "told"' not in row]
    if untold or len(outcome["rows"]) != num_trials:
        found.append(f"of our {len(outcome['rows'])} rows, {', '.join(untold) or 'none'} are not told")
    if outcome["wrong_events"]:
        found.append(f"events: {', '.join(outcome['wrong_events'])}")
    for number, trial in outcome["trials"].items():
        if trial["state"] == "COMPLETE" and number not in outcome["checkpoints"]:
            found.append(f"trial {number} is complete and has no checkpoint")
    return found
