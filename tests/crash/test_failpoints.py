"""Killed at every named failpoint, a study ends as if nothing had happened."""

from __future__ import annotations

import pytest

from tests.crash.harness import Check, Kill, Laboratory, NotReachedError, Reference
from tests.crash.variations import BASE, PRUNERS
from tunesafe.failpoints import FAILPOINTS

pytestmark = [pytest.mark.crash, pytest.mark.timeout(600)]

NO_PRUNER = next(variation for variation in PRUNERS if variation.name == "pruner none")


def in_turn() -> list[str]:
    """Every failpoint, in an order in which one study meets all of them: a state is restored once there is one."""
    restoring = ["restore.before", "restore.after"]
    order = [failpoint for failpoint in FAILPOINTS if failpoint not in restoring]
    after = order.index("checkpoint.committed") + 1
    return order[:after] + restoring + order[after:]


def test_one_study_that_dies_at_every_failpoint_in_turn_ends_identical(lab: Laboratory, survived: Check) -> None:
    """Each run of one study dies at the next failpoint, at its first passing; none is left out."""
    survived(lab.kill_at(BASE, [Kill(failpoint) for failpoint in in_turn()]))


@pytest.mark.slow
def test_a_study_that_dies_a_little_later_every_time_ends_identical(lab: Laboratory, survived: Check) -> None:
    """As above at second passings, the openings being those of a study that exists."""
    once = {name for name in FAILPOINTS if name.startswith(("open.", "restore.", "sample."))}
    later = [Kill(name, 1 if name in once else 2) for name in in_turn() if not name.startswith(("tell.", "finish."))]
    survived(lab.kill_at(NO_PRUNER, [Kill("train.batch", 12), *later]))


@pytest.mark.slow
@pytest.mark.parametrize("which", ["first", "middle", "last"])
@pytest.mark.parametrize("failpoint", FAILPOINTS)
def test_a_study_killed_once_at_a_failpoint_ends_identical(
    failpoint: str, which: str, lab: Laboratory, survived: Check
) -> None:
    """One death per study: at the first, a middle and the last passing of an uninterrupted run."""
    reference = lab.reference(BASE)
    before = _before(failpoint, which, reference)
    kill = Kill(failpoint) if failpoint.startswith(("open.", "restore.")) else reference.passing(failpoint, which)
    survived(lab.kill_at(BASE, [*before, kill]))


def _before(failpoint: str, which: str, reference: Reference) -> list[Kill]:
    """An earlier death, for failpoints that each run passes once at most: it makes the run that passes them."""
    if failpoint.startswith("open."):
        return {
            "first": [],
            "middle": [reference.passing("train.batch", "middle")],
            "last": [reference.passing("finish.swept", "last")],
        }[which]
    if failpoint.startswith("restore."):
        captures = reference.passings["capture.before"]
        return [Kill("capture.before", {"first": 2, "middle": captures // 2, "last": captures}[which])]
    return []


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
