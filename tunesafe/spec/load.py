"""The two doors to a spec: a study file with ``--set`` overrides, and a mapping from Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesafe.errors import SpecError
from tunesafe.spec.faults import Fault, KeyPath, Place, Places, found, spec_error
from tunesafe.spec.reader import parse, read_text
from tunesafe.spec.study import StudySpec
from tunesafe.spec.values import EXACT

__all__ = ["load_spec", "spec_from_mapping"]


def load_spec(path: Path, overrides: Sequence[str] = ()) -> StudySpec:
    """Read and validate a study file.

    Args:
        path: The study file.
        overrides: ``key.path=value`` each, applied in order; values are YAML, numbers in the path list indices.

    Raises:
        SpecError: All that is wrong in one error, with file (or ``--set …``), line and column.
    """
    document = parse(read_text(path), file=str(path), exact={EXACT})
    if not isinstance(document.data, dict):
        what = "it is empty" if document.data is None else f"found {found(document.data)}"
        raise SpecError(f"a study file is a mapping of keys to values; {what}", file=str(path), line=1, column=1)
    for override in overrides:
        _apply(override, document.data, document.places)
    file = path.absolute()
    spec = StudySpec.from_data(document.data, places=document.places, file=file, folder=file.parent)
    if spec.trainable is None:
        fault = Fault("has no 'trainable', which it needs; write FILE.py:NAME or package.module:NAME")
        raise spec_error([fault], document.places)
    return spec


def spec_from_mapping(data: Mapping[str, Any], *, base: Path | None) -> StudySpec:
    """Validate the same keys given from Python; ``trainable`` may be absent.

    Args:
        data: What a study file would hold.
        base: What relative paths are relative to; default: the working directory.

    Raises:
        SpecError: All that is wrong in one error, by key path.

    Example:
        >>> spec = spec_from_mapping(
        ...     {
        ...         "name": "digits",
        ...         "n_trials": 50,
        ...         "objective": {"metric": "val_loss", "direction": "minimize"},
        ...         "budget": {"passes": 14.3, "virtual_epochs": 15},
        ...         "parameters": {"lr": {"type": "float", "low": 1e-4, "high": 0.1, "log": True}},
        ...     },
        ...     base=None,
        ... )
        >>> spec.budget.total_examples(1437)
        20549
    """
    if not isinstance(data, Mapping):
        raise SpecError(f"a study is described by a mapping of keys to values, found {found(data)}")
    return StudySpec.from_data(data, folder=(base or Path.cwd()).absolute())


def _apply(override: str, data: dict[str, Any], places: Places) -> None:
    """Put one override into the data, and its place into the places."""
    label = f"--set {override}"
    key_path, equals, text = override.partition("=")
    parts = key_path.strip().split(".")
    if not equals or not all(parts):
        raise SpecError("must be key.path=value, e.g. --set n_trials=100", file=label)
    parent: Any = data
    at: KeyPath = ()
    for part in parts[:-1]:
        if isinstance(parent, dict) and parent.get(part) is None:
            parent[part] = {}
            _forget((*at, part), places)
            places.keys[*at, part] = places.values[*at, part] = Place(label)
        parent, at = _descend(parent, part, at, label)
    last = parts[-1]
    if not isinstance(parent, dict):
        _, at = _descend(parent, last, at, label)
    else:
        at = (*at, last)
    _forget(at, places)
    value = parse(text, file=label, one_line=True, at=at, exact={EXACT})
    parent[at[-1]] = value.data
    places.values.update(value.places.values)
    places.keys.update(value.places.keys)
    places.keys[at] = places.values[at] = Place(label)


def _descend(parent: Any, part: str, at: KeyPath, label: str) -> tuple[Any, KeyPath]:
    """The value under one part of a key path, and its address."""
    shown = ".".join(map(str, at)) or "the study"
    if isinstance(parent, dict):
        return parent[part], (*at, part)
    if isinstance(parent, list):
        if part.isdecimal() and int(part) < len(parent):
            return parent[int(part)], (*at, int(part))
        raise SpecError(
            f"{shown} is a list of {len(parent)}: '{part}' is not the index of an entry (from 0)", file=label
        )
    raise SpecError(f"{shown} is {found(parent)}, which has no '{part}'", file=label)


def _forget(path: KeyPath, places: Places) -> None:
    """Drop the places of a value that is replaced."""
    for table in places:
        for known in [known for known in table if known[: len(path)] == path]:
            del table[known]
