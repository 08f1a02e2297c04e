"""What numbers depend on beside code and seed."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesafe.study import environment
from tunesafe.study.environment import describe, differences

descriptions = st.dictionaries(st.sampled_from("abcde"), st.none() | st.text(max_size=2))


def test_a_description_is_stable_and_names_the_versions_that_change_numbers() -> None:
    """Twice the same on one machine; a package that is not installed is None, which is a fact as well."""
    here = describe()
    assert here == describe()
    assert here["version:torch"] == metadata.version("torch")
    assert {"version:greenlet", "version:optuna", "version:numpy", "processor", "machine", "python"} <= here.keys()


def test_what_is_not_installed_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """With greenlet, Optuna's Gaussian process gives other numbers than without."""
    monkeypatch.setattr(environment, "_PACKAGES", ("no-such-package-at-all",))
    assert describe()["version:no-such-package-at-all"] is None


def test_a_system_without_cpuinfo_still_has_a_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever Python knows of it."""

    def refuse(self: Path) -> str:
        raise FileNotFoundError(self)

    monkeypatch.setattr(environment, "_PACKAGES", ())
    monkeypatch.setattr(Path, "read_text", refuse)
    assert isinstance(describe()["processor"], str)


@given(then=descriptions, now=descriptions)
def test_differences_are_what_differs(then: dict[str, str | None], now: dict[str, str | None]) -> None:
    """Both values of everything that is not the same; nothing of what is."""
    found = differences(then, now)
    assert found == {key: [then.get(key), now.get(key)] for key in found}
    assert {key for key in then.keys() | now.keys() if then.get(key) != now.get(key)} == found.keys()
    assert differences(then, then) == {}
