"""A trial as files that need no tunesafe: weights, story and code.

The weights are read back from a checkpoint, verified, and written as safetensors. A name of
the state is a name in the file: ``model.load_state_dict(load_file("model.safetensors"))``
works for tied weights, too, which are written once under each of their names.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tunesafe.api.stored import StoredStudy
from tunesafe.api.views import TrialState, TrialView
from tunesafe.contracts import CheckpointInfo, Position
from tunesafe.errors import SpecError, TunesafeError
from tunesafe.seeds import trial_seed
from tunesafe.state.codec import decode

__all__ = ["export"]


def export(stored: StoredStudy, directory: Path, number: int | None, virtual_epoch: int | None) -> Path:
    """Write a trial's weights, its story and its code into a new or empty folder.

    Args:
        stored: The study.
        directory: Where to; all of it is there or none.
        number: Which trial; the best by default.
        virtual_epoch: Which checkpoint; the selected one by default.

    Raises:
        SpecError: If folder, trial or checkpoint will not do.
        DamagedError: If the checkpoint is not what was written.
        TunesafeError: If there is no best trial yet.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise SpecError(f"{directory} is not an empty folder. Nothing was written. Name another, or remove it.")
    trial = _best(stored) if number is None else stored.trial(number)
    checkpoint = _choose(trial, stored.checkpoints(trial.number), virtual_epoch)
    state = stored.state(checkpoint)
    weights = _weights(decode(state.structure, state.tensors, on_device=False))
    if not weights:
        raise TunesafeError(
            f"Trial {trial.number} tracks no module, so there are no weights to export. Nothing was written. "
            "Give the module to trial.track(model=...)."
        )
    story = _story(stored, trial, checkpoint) | {"weights": {name: f"{name}.safetensors" for name in weights}}
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.absolute().parent))
        try:
            _write(staging, weights, story, stored.sources())
            for path in (staging, *staging.rglob("*")):  # safetensors writes for the owner alone
                path.chmod((0o777 if path.is_dir() else 0o666) & ~_umask())
            os.replace(staging, directory)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
    except OSError as error:
        raise SpecError(f"{directory} cannot be written: {error.strerror}. The study is unharmed.") from error
    return directory


def _best(stored: StoredStudy) -> TrialView:
    best = stored.best()
    if best is None:
        raise TunesafeError(
            f"study {stored.name!r} has no complete trial yet, so none is the best. Nothing was written. "
            "Name a trial with --trial, or run the study."
        )
    return best


def _choose(trial: TrialView, checkpoints: list[CheckpointInfo], virtual_epoch: int | None) -> CheckpointInfo:
    """The checkpoint at the end of a virtual epoch; of a trial that has selected none, the newest such."""
    ends = {Position(report.examples_seen, report.virtual_epoch) for report in trial.reports}
    kept = {info.position.virtual_epoch: info for info in checkpoints if info.position in ends}
    wanted = virtual_epoch if virtual_epoch is not None else trial.selected_virtual_epoch
    if wanted is None and kept:
        wanted = max(kept)
    if wanted in kept:
        return kept[wanted]
    which = f"virtual epoch {wanted}" if wanted is not None else "any virtual epoch"
    what = f"Trial {trial.number} ({trial.state}) has no checkpoint of {which}. Nothing was written."
    if kept:
        raise SpecError(f"{what} It has those of virtual epoch {', '.join(map(str, sorted(kept)))}.")
    gone = {TrialState.PRUNED: "Those of pruned trials are", TrialState.FAILED: "Those of failed trials are"}
    why = f"{gone[trial.state]} not kept." if trial.state in gone else "checkpoint.keep decides how many are kept."
    raise SpecError(f"{what} It has none at all. {why}")


def _weights(tree: Mapping[str, Any]) -> dict[str, dict[str, torch.Tensor]]:
    """The tensors of every tracked module by the module's name; a module alone is ``model``, whatever its name."""
    found = {name: dict(state) for name, state in tree.items() if _is_of_module(state)}
    if len(found) == 1:
        found = {"model": next(iter(found.values()))}
    return {
        name: {key: _plain(value) for key, value in state.items() if _is_tensor(value)} for name, state in found.items()
    }


def _is_of_module(state: object) -> bool:
    # What torch puts on the state_dict of every module, and of nothing else.
    return isinstance(state, dict) and hasattr(state, "_metadata")


def _is_tensor(value: object) -> bool:
    return isinstance(value, torch.Tensor)


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    """Dense, contiguous, and sharing no memory: what the format can hold. The element type stays."""
    dense = tensor.to_dense() if tensor.layout is not torch.strided else tensor
    return dense.detach().contiguous().clone()


def _story(stored: StoredStudy, trial: TrialView, checkpoint: CheckpointInfo) -> dict[str, Any]:
    row, spec = stored.row(), stored.spec()
    return {
        "study": stored.name,
        "number": trial.number,
        "state": trial.state,
        "objective": {"metric": spec.objective.metric, "direction": spec.objective.direction},
        "value": trial.value,
        "reason": trial.reason,
        "parameters": dict(trial.params),
        "metrics": {str(virtual_epoch): metrics for virtual_epoch, metrics in trial.metrics.items()},
        "result": dict(trial.result),
        "checkpoint": {
            "virtual_epoch": checkpoint.position.virtual_epoch,
            "examples_seen": checkpoint.position.examples_seen,
        },
        "examples_seen": trial.examples_seen,
        "attempts": trial.attempts,
        "seeds": {"study": spec.seed, "trial": trial_seed(spec.seed, trial.number)},
        "environment": dict(row.environment),
        "fingerprint": row.fingerprint,
        "started": trial.started.isoformat() if trial.started else None,
        "ended": trial.ended.isoformat() if trial.ended else None,
        "study_file": row.source_text,
    }


def _write(
    folder: Path, weights: Mapping[str, dict[str, torch.Tensor]], story: dict[str, Any], sources: Mapping[str, str]
) -> None:
    for name, tensors in weights.items():
        save_file(tensors, folder / f"{name}.safetensors", metadata={"format": "pt"})
    (folder / "trial.json").write_text(json.dumps(_spelled(story), indent=2) + "\n", encoding="utf-8")
    for path, text in sources.items():
        # Paths come from the database; whatever they say, they stay inside.
        parts = [part for part in Path(path).parts if part not in ("..", os.sep)]
        file = folder.joinpath("source", *parts)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")


def _spelled(value: Any) -> Any:
    """As JSON can hold it: a number that is none is its name, ``"nan"``, ``"inf"`` or ``"-inf"``."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _spelled(item) for key, item in value.items()}
    return [_spelled(item) for item in value] if isinstance(value, list | tuple) else value


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
