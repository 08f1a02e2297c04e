"""Whatever stands wherever in a study file: a study, or an error in our words; never a traceback."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.spec.texts import STUDY
from tunesafe.errors import SpecError
from tunesafe.spec import StudySpec, spec_from_mapping
from tunesafe.spec.reader import parse

JUNK = [
    None, True, 0, -1, 1.5, 2**62, "", "x", "off", "auto", "1h", [], [1, "a"], {}, {"a": 1}, {"name": "tpe"},
    {"type": "int"},
    {"type": "float", "low": 1, "high": 2}, {"type": [], "choices": 1}, {"type": "categorical", "choices": [[], {}]},
    [[]], [{}], {"virtual_epochs": 1}, {"when": {"lr": 1}},
]  # fmt: skip


EVERY_KEY = (
    STUDY.replace("every: {virtual_epochs: 1}", "every: {virtual_epochs: 1, examples: 9, seconds: 60}")
    .replace("mid_epoch: false", "mid_epoch: true")
    .replace("retries: 3", "grace: 90s\nstall_timeout: off\nstorage_timeout: 10m\nretries: 3")
)


def every_path(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The paths of everything in a study file."""
    yield path
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in pairs:
        yield from every_path(item, (*path, key))


@pytest.mark.parametrize("junk", JUNK, ids=repr)
def test_no_error_is_in_the_words_of_the_library_behind(junk: object) -> None:
    """Whatever stands in the place of whatever, and every constraint of every key."""
    whole = parse(EVERY_KEY, file="study.yaml").data
    spec_from_mapping(whole, base=Path("/somewhere"))
    paths = [path for path in every_path(whole) if path]
    theirs = re.compile(r"is wrong|[Ii]nput|should|instance|tuple|dict|\0")
    assert len(paths) > 70
    for path in paths:
        root = copy.deepcopy(whole)
        parent = root
        for key in path[:-1]:
            parent = parent[key]
        parent[path[-1]] = copy.deepcopy(junk)
        with suppress(SpecError):
            spec_from_mapping(root, base=Path("/somewhere"))
            continue
        with pytest.raises(SpecError) as caught:
            spec_from_mapping(root, base=Path("/somewhere"))
        assert not theirs.search(str(caught.value)), caught.value


@settings(max_examples=150)
@given(st.data())
def test_no_value_gives_anything_but_a_spec_or_a_spec_error(data: st.DataObject) -> None:
    """Whatever stands wherever: never a traceback."""
    root = parse(STUDY, file="study.yaml").data
    for _ in range(data.draw(st.integers(1, 3))):
        parent, key = root, data.draw(st.sampled_from([*root, "unknown"]))
        while isinstance(parent.get(key), dict) and parent[key] and data.draw(st.booleans()):
            parent = parent[key]
            key = data.draw(st.sampled_from([*parent, "when", "low"]))
        parent[key] = copy.deepcopy(data.draw(st.sampled_from(JUNK)))
    try:
        spec = spec_from_mapping(root, base=Path("/somewhere"))
    except SpecError as error:
        outcome: object = error.message
    else:
        outcome = StudySpec.from_json(spec.to_json()) == spec
    assert outcome
