"""Where metrics also go: told where training continues, and harmless whatever happens to them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tunesafe import trackers
from tunesafe.errors import MissingExtraError, SpecError
from tunesafe.trackers import TRACKERS, Trackers, check_trackers


def curve(folder: Path, number: int, name: str) -> list[tuple[int, float]]:
    """A curve as TensorBoard shows it."""
    events = EventAccumulator(str(folder / "tensorboard" / str(number)))
    events.Reload()
    return [(point.step, point.value) for point in events.Scalars(name)]


def test_a_resumed_trial_has_one_curve(tmp_path: Path) -> None:
    """What the dead attempt had logged beyond the point of resumption is purged."""
    attempts = [[(10, 0.5), (20, 0.25), (30, 0.125)], [(20, 0.25), (30, 0.0625), (40, 0.03125)]]
    for attempt in attempts:
        with Trackers(["tensorboard"], tmp_path, number=3) as tracked:
            for examples_seen, loss in attempt:
                tracked.log({"loss": loss}, examples_seen)
    assert curve(tmp_path, 3, "loss") == [(10, 0.5), (20, 0.25), (30, 0.0625), (40, 0.03125)]


def test_trials_and_metrics_have_curves_of_their_own(tmp_path: Path) -> None:
    """One folder per trial, one curve per metric, NaN included."""
    for number in (0, 1):
        with Trackers(["tensorboard"], tmp_path, number) as tracked:
            tracked.log({"loss": 1.0 + number, "accuracy": float("nan")}, 10)
    assert [curve(tmp_path, number, "loss") for number in (0, 1)] == [[(10, 1.0)], [(10, 2.0)]]
    assert len(curve(tmp_path, 0, "accuracy")) == 1


def test_without_trackers_and_without_values_nothing_is_made(tmp_path: Path) -> None:
    """Nothing is opened before there is something to say."""
    with Trackers([], tmp_path, 0) as tracked:
        tracked.log({"loss": 1.0}, 10)
    with Trackers(["tensorboard"], tmp_path, 0):
        pass
    assert list(tmp_path.iterdir()) == []


class Broken:
    """A tracker that fails where it is told to."""

    def __init__(self, folder: Path, number: int, examples_seen: int) -> None:
        if folder.name == "opening":
            raise OSError("no space left")
        self._fails = folder.name
        self.logged: list[Mapping[str, float]] = []
        MADE.append(self)

    def log(self, values: Mapping[str, float], examples_seen: int) -> None:
        """Fail, or remember."""
        if self._fails == "logging":
            raise OSError("no space left")
        self.logged.append(values)

    def close(self) -> None:
        """Fail, or not."""
        if self._fails == "closing":
            raise OSError("no space left")


MADE: list[Broken] = []


@pytest.mark.parametrize("where", ["opening", "logging", "closing", "nowhere"])
def test_no_trial_ends_over_a_tracker(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One that fails is left, and the log says so; it is not tried again."""
    monkeypatch.setitem(TRACKERS, "broken", Broken)  # type: ignore[misc]
    MADE.clear()
    with caplog.at_level(logging.WARNING), Trackers(["broken"], tmp_path / where, 4) as tracked:
        for examples_seen in (10, 20):
            tracked.log({"loss": 1.0}, examples_seen)
    assert len(MADE) == (where != "opening")
    assert [len(broken.logged) for broken in MADE if where != "logging"] == [2] * (where in ("closing", "nowhere"))
    assert caplog.text.count("tracker broken has failed; trial 4 goes on without it") == (where != "nowhere")


def test_trackers_that_do_not_exist_or_cannot_work_are_refused_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the entry that is wrong, with what there is; by the extra that is missing."""
    check_trackers(["tensorboard"])
    with pytest.raises(SpecError, match="no tracker 'wandb'; there are: tensorboard") as refused:
        check_trackers(["tensorboard", "wandb"])
    assert refused.value.key == "trackers.1"
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"tunesafe\[tensorboard\]"):
        check_trackers(["tensorboard"])
