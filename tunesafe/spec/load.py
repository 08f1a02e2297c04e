"""The two doors to a spec: a study file with ``--set`` overrides, and a mapping from Python."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesafe.errors import SpecError
from tunesafe.spec.faults import Fault, KeyPath, Place, Places, dotted, found, spec_error, written
from tunesafe.spec.reader import parse, read_text
from tunesafe.spec.study import StudySpec
from tunesafe.spec.values import EXACT, folded

__all__ = ["load_spec", "spec_from_mapping"]

_DEFAULT_NAMES: dict[KeyPath, str] = {(key,): StudySpec.model_fields[key].default.name for key in ("sampler", "pruner")}
"""What a component is called when ``--set`` gives it an option and the file does not name it."""


def load_spec(path: Path, overrides: Sequence[str] = ()) -> StudySpec:
    """Read and validate a study file.

    Args:
        path: The study file.
        overrides: ``key.path=value`` each, applied in order; values are YAML, numbers in the path list
            indices. What the file lacks is added: keys, an entry at the end of a list, a sampler's default name.

    Raises:
        SpecError: All that is wrong in one error, with file (or ``--set …``), line and column.
    """
    document = parse(read_text(path), file=str(path), exact={EXACT})
    if not isinstance(document.data, dict):
        what = "it is empty" if document.data is None else f"found {written((), document.data, document.places)}"
        raise SpecError(f"a study file is a mapping of keys to values; {what}", file=str(path), line=1, column=1)
    for override in overrides:
        _apply(override, document.data, document.places)
    file = path.absolute()
    spec = StudySpec.from_data(document.data, places=document.places, file=file, folder=file.parent)
    if spec.trainable is None:
        fault = Fault("has no 'trainable', which it needs; write FILE.py:NAME or package.module:NAME")
        raise spec_error([fault], document.places)
    _refuse_namesakes(spec)
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
    spec = StudySpec.from_data(data, folder=(base or Path.cwd()).absolute())
    _refuse_namesakes(spec)
    return spec


def _refuse_namesakes(spec: StudySpec) -> None:
    """Refuse parameters whose names are one to the database: Optuna would keep the first and drop the second."""
    if not spec.storage.startswith("mysql"):
        return
    seen: dict[str, str] = {}
    for name in spec.searched:
        other = seen.setdefault(folded(name), name)
        if other != name:
            raise spec.error(
                f"parameters.{name}",
                f"'{name}' is '{other}' to Optuna's tables in MySQL and MariaDB, which ignore case and accents; "
                "rename one of them",
                key=True,
            )


def _apply(override: str, data: dict[str, Any], places: Places) -> None:
    """Put one override into the data, and its place into the places."""
    label = f"--set {override}"
    key_path, equals, text = override.partition("=")
    parts = key_path.strip().split(".")
    if not equals or not all(parts):
        raise SpecError("must be key.path=value, e.g. --set n_trials=100", file=label)
    holder, at = _holder(parts, data, places, label)
    _forget(at, places)
    value = parse(text, file=label, one_line=True, at=at, exact={EXACT})
    _put(holder, at[-1], value.data)
    places.keys.update(value.places.keys)
    places.values.update(value.places.values)
    places.numbers.update(value.places.numbers)
    places.keys[at] = places.values[at] = Place(label)


def _holder(parts: list[str], data: dict[str, Any], places: Places, label: str) -> tuple[Any, KeyPath]:
    """What a key path's last part stands in, made if it is absent, and the whole path's address."""
    holder: Any = data
    at: KeyPath = ()
    while True:
        shown = written(at, data, places)
        key, parts = _first_key(parts, holder, at, label, shown=shown, names=_names_at(at, data))
        at = (*at, key)
        if not parts:
            return holder, at
        value = _get(holder, key)
        default = _DEFAULT_NAMES.get(at)
        if value is None:
            value = {"name": default} if default else [] if parts[0].isdecimal() else {}
            _forget(at, places)
            places.keys[at] = places.values[at] = Place(label)
            _put(holder, key, value)
        elif default and isinstance(value, str):  # a bare name is short for a mapping
            value = {"name": value}
            places.keys[*at, "name"] = places.values[*at, "name"] = places.values[at]
            _put(holder, key, value)
        holder = value


def _first_key(
    parts: list[str], holder: Any, at: KeyPath, label: str, *, shown: str, names: Collection[str]
) -> tuple[str | int, list[str]]:
    """The key or index a path begins with, and the rest of it; of names with dots the longest known one counts."""
    if isinstance(holder, dict):
        heads = [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
        count = max((count for count, head in enumerate(heads, 1) if head in holder or head in names), default=1)
        return heads[count - 1], parts[count:]
    part, *rest = parts
    if not isinstance(holder, list):
        raise SpecError(f"{dotted(at)} is {shown}, which has no '{part}'", file=label)
    if not part.isdecimal() or len(part) > 9 or int(part) > len(holder):
        has = f"has {len(holder)}, counted from 0" if holder else "is empty"
        raise SpecError(f"{dotted(at)} has no entry '{part}': it {has}, and {len(holder)} appends one", file=label)
    return int(part), rest


def _names_at(at: KeyPath, data: dict[str, Any]) -> Collection[str]:
    """The names of parameters, where values are given to parameters by name."""
    gives = len(at) == 2 and at[0] in {"initial_trials", "sampler"}
    gives = gives or (len(at) == 3 and at[::2] == ("parameters", "when"))
    parameters = data.get("parameters")
    return parameters if gives and isinstance(parameters, dict) else ()


def _get(holder: Any, key: Any) -> Any:
    """What stands there; None if nothing does."""
    if isinstance(holder, dict):
        return holder.get(key)
    return holder[key] if key < len(holder) else None


def _put(holder: Any, key: Any, value: Any) -> None:
    if isinstance(holder, list) and key == len(holder):
        holder.append(value)
    else:
        holder[key] = value


def _forget(path: KeyPath, places: Places) -> None:
    """Drop the places of a value that is replaced."""
    for table in places:
        for known in [known for known in table if known[: len(path)] == path]:
            del table[known]
