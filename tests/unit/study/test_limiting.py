"""What a study gives up when it may not store all that it is asked to keep."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.unit.study.studies import complete
from tests.unit.study.test_retaining import Trainer, training
from tunesafe.contracts import Notice
from tunesafe.errors import LeaseLostError
from tunesafe.store import inventory
from tunesafe.store.engine import reading
from tunesafe.study.patience import Patience
from tunesafe.study.retaining import Retainer

ALL = {"keep": {"last": 2, "best": 1, "study_best": 2, "every": 1}}
PART = 10_000
"""Bytes of one module; an optimizer has a few more."""
STATE = 2 * PART + 200


class Limited:
    """A trainer whose states have a size, and what its watcher was told."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, self.told = trainer, list[Notice]()
        self.retainer = Retainer(trainer.desk.study, trainer.checkpoints, self.told.append)
        trainer._retainer = self.retainer

    def train(self, *values: float, end: bool = True) -> None:
        """A trial; every checkpoint is looked at as a worker does."""
        claim = self.trainer.desk.claim()
        for virtual_epoch, value in enumerate(values, start=1):
            self.trainer.desk.report(claim, value)
            data = bytes([claim.number, virtual_epoch]) * (PART // 2)
            self.trainer.save(claim, virtual_epoch, data)
            self.retainer.after_save(Patience(1.0), claim.number, claim.fence, self.trainer.desk.records(claim.number))
        if end:
            self.trainer.end(claim, complete(values[-1]))

    def stored(self) -> int:
        """How many bytes there are."""
        with reading(self.trainer.desk.engine) as connection:
            return inventory.stored_bytes(connection, self.trainer.desk.uuid).in_database

    def events(self, *kinds: str) -> list[tuple[str, int | None, Any]]:
        """What was kept of it."""
        return [(e.kind, e.number, e.details.get("what")) for e in self.trainer.desk.events(*kinds)]


@contextmanager
def limited(url: str, num_states: float, **changes: Any) -> Iterator[Limited]:
    """A study that may store so many states."""
    with training(url, **({"disk_limit": int(num_states * STATE), "checkpoint": ALL} | changes)) as trainer:
        yield Limited(trainer)


def test_as_long_as_all_fits_nothing_is_given_up_or_said(sqlite_url: str) -> None:
    """Up to the last byte."""
    with limited(sqlite_url, 12) as study:
        for value in (3.0, 2.0, 1.0):
            study.train(9.0, 9.0, 9.0, value)
        assert study.trainer.kept() == {0: [1, 2, 3, 4], 1: [1, 2, 3, 4], 2: [1, 2, 3, 4]}
        assert study.trainer.thinned() == {}
        assert study.events("disk_limit", "given_up", "over_disk_limit") == []


def test_optimizers_go_before_weights_and_a_warning_before_the_first_loss(sqlite_url: str) -> None:
    """Then what is kept to look back, of the worse trial first; each loss is an event of its trial."""
    with limited(sqlite_url, 7) as study:
        study.train(9.0, 9.0, 9.0, 3.0)
        study.train(9.0, 9.0, 9.0, 2.0)
        assert 6.9 * STATE < study.stored() <= 7 * STATE
        assert study.trainer.thinned() == {0: [1, 2]}
        assert study.trainer.kept() == {0: [1, 2, 3, 4], 1: [1, 2, 3, 4]}
        warning, *losses = study.events("disk_limit", "given_up")
        assert warning[0] == "disk_limit"
        assert losses == [("given_up", 0, "state")] * 2
        study.train(9.0, 9.0, 9.0, 1.0)
        assert study.stored() <= 7 * STATE
        assert 4 in study.trainer.kept()[2]
        assert study.trainer.thinned().get(2, []).count(4) == 0
        assert {what for _, _, what in study.events("given_up")} == {"state", "every"}
        assert len(study.events("disk_limit")) == 1
        told = [notice.details["event"] for notice in study.told]
        assert told == [kind for kind, _, _ in study.events("disk_limit", "given_up")]


def test_with_hardly_any_room_the_newest_two_and_the_best_stay(sqlite_url: str) -> None:
    """It is said once that nothing is left to give up, and training goes on."""
    with limited(sqlite_url, 0.5) as study:
        study.train(9.0, 9.0, 9.0, 3.0)
        assert study.trainer.kept() == {0: [4]}
        study.train(9.0, 9.0, 9.0, 2.0)
        assert study.trainer.kept() == {1: [4]}
        study.train(9.0, 9.0, 9.0, 8.0, end=False)
        assert study.trainer.kept() == {1: [4], 2: [3, 4]}
        assert study.trainer.thinned() == {}
        assert study.events("over_disk_limit", "disk_limit") == [
            ("over_disk_limit", None, None),
            ("disk_limit", None, None),
        ]
        (nothing_left,) = [n for n in study.told if n.details["event"] == "over_disk_limit"]
        assert "Training goes on" in nothing_left.details["message"]


def test_a_live_trial_of_another_worker_is_left_alone(sqlite_url: str) -> None:
    """What it may need is its own worker's to know."""
    with limited(sqlite_url, 0.5) as study:
        other = study.trainer.train(4.0, 3.0, 2.0, 1.0)
        study.train(9.0, 9.0, 9.0, 3.0)
        assert study.trainer.kept() == {other.number: [1, 2, 3, 4], 1: [4]}


def test_a_worker_that_lost_its_lease_gives_up_nothing_of_its_trial(sqlite_url: str) -> None:
    """It slept between its checkpoint and the look at the disk; by now another knows what the trial needs."""
    with limited(sqlite_url, 0.001) as study:
        claim = study.trainer.train(4.0, 3.0, 2.0, 1.0)
        history = study.trainer.desk.records(claim.number)
        with pytest.raises(LeaseLostError):
            study.retainer.after_save(Patience(1.0), claim.number, claim.fence - 1, history)
        assert study.trainer.kept() == {0: [1, 2, 3, 4]}
        study.retainer.after_save(Patience(1.0), claim.number, claim.fence, history)
        assert study.trainer.kept() == {0: [3, 4]}


def test_where_the_best_counts_a_live_trial_keeps_it(sqlite_url: str) -> None:
    """``select: best``: it is what the trial will be represented by."""
    objective = {"metric": "loss", "direction": "minimize", "select": "best"}
    with limited(sqlite_url, 0.5, objective=objective) as study:
        study.train(1.0, 9.0, 9.0, 9.0, end=False)
        assert study.trainer.kept() == {0: [1, 3, 4]}


def test_a_limit_that_was_lowered_is_held_when_a_worker_begins_and_warned_of_anew(sqlite_url: str) -> None:
    """Another limit is another decision of the user's."""
    with limited(sqlite_url, 3) as study:
        study.train(9.0, 9.0, 9.0, 3.0)
        assert len(study.events("disk_limit")) == 1
    with limited(sqlite_url, 1) as study:
        study.retainer.tidy_up()
        assert study.trainer.kept() == {0: [4]}
        assert study.stored() <= STATE
        assert len(study.events("disk_limit")) == 2
    with limited(sqlite_url, 1) as study:
        study.retainer.tidy_up()
        assert len(study.events("disk_limit")) == 2


HOLDER = """
import sys
from tests.unit.study.test_limiting import limited

with limited(sys.argv[1], 1.5) as study:
    study.retainer.tidy_up()
"""


@pytest.mark.parametrize("passing", [1, 3, 6])
@pytest.mark.parametrize("failpoint", ["forget.in_transaction", "forget.committed", "checkpoint.swept"])
def test_killed_while_it_gives_up_every_loss_is_told_and_nothing_more_is_lost(
    sqlite_url: str, failpoint: str, passing: int
) -> None:
    """SIGKILL in the middle: the event is there if and only if the checkpoint is not."""
    with limited(sqlite_url, 100) as study:
        study.train(9.0, 9.0, 9.0, 3.0)
        study.train(9.0, 9.0, 9.0, 2.0)
    armed = {**os.environ, "TUNESAFE_FAILPOINT": f"{failpoint}:{passing}"}
    died = subprocess.run([sys.executable, "-c", HOLDER, sqlite_url], env=armed, check=False, timeout=200)
    assert died.returncode == -9
    with limited(sqlite_url, 1.5) as study:
        check(study)
        study.retainer.tidy_up()
        check(study)
        assert study.stored() <= 1.5 * STATE
        assert 4 in study.trainer.kept()[1]
        assert len(study.events("disk_limit")) == 1


def check(study: Limited) -> None:
    """What is there is intact, and what is not there stands among the events; the warning came first."""
    infos = study.trainer.checkpoints.infos()
    for info in infos:
        study.trainer.checkpoints.load(info)
    events = study.trainer.desk.events("given_up", "disk_limit")
    assert events[0].kind == "disk_limit"
    lost = {(e.number, e.details["virtual_epoch"]) for e in events[1:] if e.details["what"] != "state"}
    there = {(info.number, info.position.virtual_epoch) for info in infos}
    assert lost == {(number, epoch) for number in (0, 1) for epoch in (1, 2, 3, 4)} - there
    thinned = {(e.number, e.details["virtual_epoch"]) for e in events[1:] if e.details["what"] == "state"}
    assert {(i.number, i.position.virtual_epoch) for i in infos if i.weights_only} == thinned - lost
