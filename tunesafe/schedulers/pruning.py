"""Optuna's pruners: built from a study file, and asked without being allowed to write.

A pruner may write what it has seen (which rung a trial completed) before it decides, so a
process killed in between loses the decision. ``judge`` therefore runs it on a rehearsal and
returns decision and writes together, to be recorded in one transaction by the caller.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna import pruners
from optuna.pruners import BasePruner, HyperbandPruner, PatientPruner, SuccessiveHalvingPruner, WilcoxonPruner
from optuna.trial import FrozenTrial

from tunesafe.contracts import AttributeWrite
from tunesafe.errors import SpecError
from tunesafe.options import check_options, classes_of, construct, find_class, require, split_name
from tunesafe.rehearsal import Rehearsal

__all__ = ["DEFAULT_PRUNER", "PruneDecision", "build_pruner", "judge"]

DEFAULT_PRUNER = "median"

_CLASSES = classes_of(pruners, BasePruner, "Pruner")  # type: ignore[type-abstract]  # only a bound, never called


@dataclass(frozen=True, slots=True)
class PruneDecision:
    """What a pruner decided about one report.

    Args:
        prune: Whether the trial ends here.
        writes: System attributes the pruner wants on the trial, in order; empty for most pruners.
    """

    prune: bool
    writes: tuple[AttributeWrite, ...]


def build_pruner(name: str, options: Mapping[str, Any], *, max_resource: int, where: str = "pruner") -> BasePruner:
    """One of Optuna's pruners, ready for a fresh process.

    Args:
        name: Optuna's class name, or it without suffix, ignoring case and underscores.
        options: Arguments of its constructor; a wrapped pruner is itself a ``{name: …}``.
        max_resource: The step of a trial's last report [virtual epochs], at least 1.
        where: The key path it stands at in the study file, for errors.

    Raises:
        SpecError: For an unknown name or option, or a value it does not accept.
        MissingExtraError: If it needs a library that is not installed.

    Example:
        >>> type(build_pruner("patient", {"wrapped_pruner": {"name": "median"}, "patience": 3}, max_resource=9))
        <class 'optuna.pruners._patient.PatientPruner'>
    """
    cls = find_class(where, name, _CLASSES, "Pruner")
    options = dict(options)
    check_options(where, cls, options, refused={}, structured=["wrapped_pruner"])
    if cls is WilcoxonPruner:
        require(where, "scipy", "gp")
    if cls is PatientPruner:
        options["wrapped_pruner"] = _wrapped(options.get("wrapped_pruner"), max_resource, f"{where}.wrapped_pruner")
    if cls is SuccessiveHalvingPruner and options.get("min_resource", "auto") == "auto":
        # Optuna's own rule, but it takes the longest trial finished when a process happens to start.
        options["min_resource"] = max(max_resource // 100, 1)
    if cls is HyperbandPruner:
        return _hyperband(options, max_resource, where)
    return construct(where, cls, options)


def _wrapped(value: object, max_resource: int, where: str) -> BasePruner | None:
    if value is None:
        return None
    name, options = split_name(where, value)
    return build_pruner(name, options, max_resource=max_resource, where=where)


def _hyperband(options: dict[str, Any], max_resource: int, where: str) -> HyperbandPruner:
    if options.get("max_resource", "auto") == "auto":
        options["max_resource"] = max_resource
    pruner = construct(where, HyperbandPruner, options)
    smallest, largest = options.get("min_resource", 1), options["max_resource"]
    if not 1 <= smallest <= largest:
        raise SpecError(
            f"min_resource {smallest} and max_resource {largest} leave no bracket: "
            "they are virtual epochs with 1 <= min_resource <= max_resource.",
            key=where,
        )
    if options.get("reduction_factor", 3) < 2:
        raise SpecError(f"{options['reduction_factor']} is less than 2.", key=f"{where}.reduction_factor")
    # Optuna makes the brackets at the first prune(); until then, in every new process, all trials
    # are in bracket 0. With a number for max_resource the study is not looked at.
    construct(where, pruner._try_initialization, {"study": None})
    return pruner


def judge(study: optuna.Study, trial: FrozenTrial) -> PruneDecision:
    """Ask the study's pruner about a trial's newest report, writing nothing.

    Args:
        study: The study; neither it nor its storage is changed.
        trial: The trial as it will be once the report is in, the new value in ``intermediate_values``.

    Returns:
        What ``trial.report(…); trial.should_prune()`` would have returned and written.
    """
    rehearsal = Rehearsal(study, trial)
    prune = study.pruner.prune(rehearsal.study, rehearsal.trial)
    assert not rehearsal.study_writes, f"{type(study.pruner).__name__} wrote to the study"
    return PruneDecision(bool(prune), rehearsal.trial_writes)
