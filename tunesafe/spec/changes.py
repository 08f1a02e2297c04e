"""What changed between two versions of a study file, and whether results survive it.

*Harmless* changes are applied, *extending* ones applied and recorded, *breaking* ones
refused unless the user accepts them: finished trials would no longer answer the question
the new file asks. A pure function of the two specs and of what the study has settled.

=====================================================  =========================================
name, trainable, objective, seed                       breaking
budget                                                 breaking, unless every trial keeps its length,
                                                       virtual epochs and batching
parameters: wider range, old values still on the grid  extending (breaking with a grid sampler:
                                                       its points are numbered)
parameters: their order                                harmless: names decide what is drawn
parameters: anything else                              breaking
sampler, pruner, early_stopping                        breaking
n_trials                                               harmless; below the trials there are: breaking
initial_trials                                         harmless for trials not yet begun, else breaking
threads_per_worker                                     breaking if unlike what the first run fixed:
                                                       it changes the last bits of sums
n_workers                                              harmless: see the promise about one worker
timeout, lease, grace, stall_timeout,                  harmless: they decide when, not what
storage_timeout, retries, max_failures
checkpoint, disk_limit                                 harmless: a resumed trial continues bit-identical
                                                       from any checkpoint
storage                                                harmless: the study is where it was found
trackers, backup                                       harmless
blobs                                                  breaking, unless all bytes were in a server's tables:
                                                       checkpoints would not be found
=====================================================  =========================================
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from fractions import Fraction
from typing import Any

from tunesafe.spec.faults import found
from tunesafe.spec.parameters import FloatParameter, IntParameter, Searched
from tunesafe.spec.storage import mask_password
from tunesafe.spec.study import StudySpec

__all__ = ["Change", "ChangeKind", "Settled", "classify", "render_diff"]


class ChangeKind(StrEnum):
    """What a change does to a study that has results."""

    HARMLESS = "harmless"
    EXTENDING = "extending"
    BREAKING = "breaking"


@dataclass(frozen=True, slots=True)
class Change:
    """One key that differs.

    Args:
        key: Its path, as ``--set`` writes it.
        old: Its value before, as text; "(absent)" if there was none.
        new: Its value now, as text.
        kind: What the change does.
        advice: Why, and what to do.
    """

    key: str
    old: str
    new: str
    kind: ChangeKind
    advice: str

    def harmless(self) -> Change:
        """The same change where there are no results to protect."""
        return replace(self, kind=ChangeKind.HARMLESS, advice="no trial has a result")


@dataclass(frozen=True, slots=True)
class Settled:
    """What a study has fixed by running.

    Args:
        num_trials: Trials that have a number; None if unknown, which counts as all.
        examples_per_pass: The training set's length that the first trial settled [examples].
        threads_per_worker: What the first run fixed.
    """

    num_trials: int | None = None
    examples_per_pass: int | None = None
    threads_per_worker: int | None = None


_HARMLESS = {
    "n_workers": "takes effect now",
    "timeout": "takes effect now",
    "lease": "takes effect with the next claim",
    "grace": "takes effect now",
    "stall_timeout": "takes effect now",
    "storage_timeout": "takes effect now",
    "retries": "takes effect with the next death",
    "max_failures": "takes effect with the next failure",
    "checkpoint": "changes what is saved and kept, not what is computed",
    "disk_limit": "changes what is kept, not what is computed",
    "storage": "the study is where it was found",
    "trackers": "takes effect with the next attempt",
    "backup": "concerns copies, not results",
}
_BREAKING = {
    "name": "another name is another study",
    "trainable": "trials of different code cannot be compared",
    "objective": "finished trials were judged by the old objective",
    "seed": "every trial derives its randomness from it",
    "sampler": "past proposals came from the old one",
    "pruner": "past trials were judged by the old one",
    "early_stopping": "past trials were stopped, or not, by the old rule",
}
_WHAT_TO_DO = "undo the change, give the study a new name, or accept the change (--accept-changes)"


def classify(old: StudySpec, new: StudySpec, settled: Settled | None = None) -> list[Change]:
    """List what changed, in the order of the study file's keys.

    Args:
        old: What the study has run with.
        new: What it is to run with.
        settled: What it has fixed by running; without it the strictest is assumed.

    Returns:
        No change at all gives an empty list.
    """
    settled = settled or Settled()
    before, after = json.loads(old.to_json()), json.loads(new.to_json())
    changes: list[Change] = []
    for key in before:
        if key == "parameters":
            changes += _parameter_changes(old, new)
        elif json.dumps(before[key]) != json.dumps(after[key]):
            kind, advice = _judge(key, old, new, settled)
            leaves = _differences(key, before[key], after[key])
            changes += [Change(at, was, now, kind, advice) for at, was, now in leaves]
    return changes


def _judge(key: str, old: StudySpec, new: StudySpec, settled: Settled) -> tuple[ChangeKind, str]:
    if key in _HARMLESS:
        return ChangeKind.HARMLESS, _HARMLESS[key]
    if key in _BREAKING:
        return ChangeKind.BREAKING, _BREAKING[key]
    judges = {
        "budget": _judge_budget,
        "n_trials": _judge_n_trials,
        "threads_per_worker": _judge_threads,
        "initial_trials": _judge_initial_trials,
        "blobs": _judge_blobs,
    }
    return judges[key](old, new, settled)


def _judge_budget(old: StudySpec, new: StudySpec, settled: Settled) -> tuple[ChangeKind, str]:
    was, now = old.budget, new.budget
    if (was.virtual_epochs, was.batching) != (now.virtual_epochs, now.batching):
        return ChangeKind.BREAKING, "trials would report at other examples than those before"
    pinned = was.examples_per_pass or settled.examples_per_pass
    same_length = (was.passes, was.examples) == (now.passes, now.examples)
    if pinned is None and same_length and settled.num_trials == 0:
        return ChangeKind.HARMLESS, "no trial has begun"
    lengths = [budget.examples or _total(budget, budget.examples_per_pass or pinned) for budget in (was, now)]
    if lengths[0] is not None and lengths[0] == lengths[1]:
        return ChangeKind.HARMLESS, f"a trial still consumes {lengths[0]:,} examples"
    if pinned is None and same_length:
        return ChangeKind.HARMLESS, "names the length that the first trial measures"
    return ChangeKind.BREAKING, "trials would not consume the same number of examples"


def _total(budget: Any, examples_per_pass: int | None) -> int | None:
    return None if examples_per_pass is None else budget.total_examples(examples_per_pass)


def _judge_n_trials(old: StudySpec, new: StudySpec, settled: Settled) -> tuple[ChangeKind, str]:
    num_trials = old.n_trials if settled.num_trials is None else settled.num_trials
    if new.n_trials >= min(num_trials, old.n_trials):
        return ChangeKind.HARMLESS, f"the study ends with {new.n_trials} trials"
    return ChangeKind.BREAKING, f"{num_trials} trials have begun; n_trials cannot be fewer"


def _judge_threads(old: StudySpec, new: StudySpec, settled: Settled) -> tuple[ChangeKind, str]:
    fixed = settled.threads_per_worker or old.threads_per_worker
    if fixed is None or new.threads_per_worker in {None, fixed}:
        return ChangeKind.HARMLESS, f"stays {fixed}" if fixed else "fixed by the first run"
    return ChangeKind.BREAKING, f"the first run fixed {fixed}; another number changes the last bits of results"


def _judge_initial_trials(old: StudySpec, new: StudySpec, settled: Settled) -> tuple[ChangeKind, str]:
    begun = new.n_trials if settled.num_trials is None else settled.num_trials
    for number in range(max(len(old.initial_trials), len(new.initial_trials))):
        if number < begun and _entry(old, number) != _entry(new, number):
            return ChangeKind.BREAKING, f"entry {number} is for trial {number}, which has begun with other parameters"
    return ChangeKind.HARMLESS, "concerns trials that have not begun"


def _judge_blobs(old: StudySpec, new: StudySpec, settled: Settled) -> tuple[ChangeKind, str]:
    if old.blobs is None and not old.storage.startswith("sqlite:"):
        return ChangeKind.HARMLESS, "what is in the database stays there"
    return ChangeKind.BREAKING, "checkpoints would not be found: copy them there first, or trials begin again"


def _entry(spec: StudySpec, number: int) -> str:
    entry = spec.initial_trials[number] if number < len(spec.initial_trials) else {}
    return json.dumps(entry, sort_keys=True)


def _parameter_changes(old: StudySpec, new: StudySpec) -> Iterator[Change]:
    for name in dict.fromkeys([*old.parameters, *new.parameters]):
        key = f"parameters.{name}"
        if name not in new.parameters:
            yield Change(key, _text(old.parameters[name]), _ABSENT, ChangeKind.BREAKING, "past trials have it")
        elif name not in old.parameters:
            yield Change(key, _ABSENT, _text(new.parameters[name]), ChangeKind.BREAKING, "past trials lack it")
        else:
            yield from _one_parameter(key, old, new, name)
    common = [
        [name for name in spec.parameters if name in old.parameters and name in new.parameters] for spec in (old, new)
    ]
    if common[0] != common[1]:
        was, now = (", ".join(names) for names in common)
        yield Change("parameters", was, now, ChangeKind.HARMLESS, "their order decides nothing")


def _one_parameter(key: str, old: StudySpec, new: StudySpec, name: str) -> Iterator[Change]:
    was, now = old.parameters[name], new.parameters[name]
    before, after = _plain(was), _plain(now)
    if json.dumps(before, sort_keys=True) == json.dumps(after, sort_keys=True):
        return
    kind, advice = ChangeKind.BREAKING, "past trials were drawn from the old values"
    if _is_wider(was, now):
        if new.sampler.name == "grid":
            advice = "a grid's points are numbered; a wider range numbers them anew"
        else:
            kind, advice = ChangeKind.EXTENDING, "a wider range: past trials stay valid"
    if not isinstance(was, Searched) and not isinstance(now, Searched):
        advice = "past trials ran with the old value"
    for at, one, other in _differences(key, before, after):
        yield Change(at, one, other, kind, advice)


def _is_wider(was: object, now: object) -> bool:
    """Whether every value there was is still there, and only the bounds differ."""
    if not isinstance(was, (FloatParameter, IntParameter)) or type(was) is not type(now):
        return False
    assert isinstance(now, (FloatParameter, IntParameter))
    if was.model_copy(update={"low": now.low, "high": now.high}) != now:
        return False
    on_grid = was.step is None or (Fraction(repr(was.low)) - Fraction(repr(now.low))) % Fraction(repr(was.step)) == 0
    return now.low <= was.low and was.highest <= now.highest and on_grid


_ABSENT = "(absent)"
_WORD = re.compile(r"[A-Za-z_]\S*")


def _plain(parameter: object) -> Any:
    return parameter.model_dump() if isinstance(parameter, Searched) else parameter


def _differences(key: str, before: Any, after: Any) -> Iterator[tuple[str, str, str]]:
    """The leaves that differ: path, old text, new text."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for part in dict.fromkeys([*before, *after]):
            missing = object()
            was, now = before.get(part, missing), after.get(part, missing)
            if was is missing or now is missing:
                texts = [_ABSENT if value is missing else _text(value) for value in (was, now)]
                yield f"{key}.{part}", texts[0], texts[1]
            elif json.dumps(was) != json.dumps(now):
                yield from _differences(f"{key}.{part}", was, now)
    else:
        yield key, _text(before), _text(after)


def _text(value: Any) -> str:
    if isinstance(value, Searched):
        return _text(value.model_dump(exclude_defaults=True))
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_text(item) for item in value) + "]"
    if isinstance(value, str) and _WORD.fullmatch(value) and value not in {"true", "false", "null"}:
        return mask_password(value)
    return found(value)  # quoted if it is text: '0.1' is not 0.1


def render_diff(changes: list[Change]) -> str:
    """The changes as text, the worst first; ends with what to do if some break."""
    order = list(ChangeKind)[::-1]
    lines: list[str] = []
    for change in sorted(changes, key=lambda change: order.index(change.kind)):
        is_text = "\n" in change.old + change.new  # sources: a diff of its own
        values = "changed" if is_text else f"{change.old} -> {change.new}"
        lines.append(f"{change.kind:<9}  {change.key}: {values} ({change.advice})")
        lines += [f"{'':<9}  {line}" for line in change.new.splitlines() if is_text]
    if any(change.kind is ChangeKind.BREAKING for change in changes):
        lines.append(f"What to do: {_WHAT_TO_DO}.")
    return "\n".join(lines)
