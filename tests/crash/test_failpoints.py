"""Killed at every named failpoint, a study ends as if nothing had happened."""

from __future__ import annotations

import pytest

from tests.crash.harness import Check, Kill, Laboratory, NotReachedError
from tests.crash.places import PLACES, deaths_at, in_turn
from tests.crash.variations import BASE, PRUNERS

pytestmark = [pytest.mark.crash, pytest.mark.timeout(600)]

NO_PRUNER = next(variation for variation in PRUNERS if variation.name == "pruner none")


def test_one_study_that_dies_at_every_failpoint_in_turn_ends_identical(lab: Laboratory, survived: Check) -> None:
    """Each run of one study dies at the next failpoint, at its first passing; none is left out."""
    survived(lab.kill_at(BASE, [Kill(failpoint) for failpoint in in_turn()]))


@pytest.mark.slow
def test_a_study_that_dies_a_little_later_every_time_ends_identical(lab: Laboratory, survived: Check) -> None:
    """As above at second passings, the openings being those of a study that exists."""
    once = {name for name in PLACES if name.startswith(("open.", "restore.", "sample.", "surplus."))}
    ends = ("tell.", "finish.", "forget.")  # what a trial passes when it is over, others' trials being few by then
    later = [Kill(name, 1 if name in once else 2) for name in in_turn() if not name.startswith(ends)]
    survived(lab.kill_at(NO_PRUNER, [Kill("train.batch", 12), *later]))


@pytest.mark.slow
@pytest.mark.parametrize("which", ["first", "middle", "last"])
@pytest.mark.parametrize("failpoint", PLACES)
def test_a_study_killed_once_at_a_failpoint_ends_identical(
    failpoint: str, which: str, lab: Laboratory, survived: Check
) -> None:
    """One death per study: at the first, a middle and the last passing of an uninterrupted run."""
    survived(lab.kill_at(BASE, deaths_at(failpoint, which, lab.reference(BASE))))


def test_a_finished_study_has_nothing_to_do(lab: Laboratory) -> None:
    """Running a finished study again changes nothing and trains nothing, whether it had died or not."""
    study = lab.study(BASE)
    study.run_and_die(Kill("finish.recorded", 2))
    study.finish()
    before, trained = study.outcome(), study.batches()
    again = study.finish()
    assert "nothing to do" in again.output
    assert study.outcome() == before
    assert study.batches() == trained


def test_a_failpoint_that_is_not_reached_is_an_error(lab: Laboratory) -> None:
    """The matrix cannot pass by never killing anything."""
    with pytest.raises(NotReachedError, match=r"train.batch:100000"):
        lab.kill_at(BASE, [Kill("train.batch", 100_000)])
