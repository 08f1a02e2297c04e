"""Every sampler, every pruner and every way to train, killed again and again."""

from __future__ import annotations

import pytest

from tests.crash.harness import Check, Kill, Laboratory
from tests.crash.variations import PRUNERS, SAMPLERS, VARIATIONS, Variation

pytestmark = [pytest.mark.crash, pytest.mark.timeout(600)]

QUICK = {
    "sampler cmaes",
    "loader, 2 workers",
    "select best",
    "all that has state",
    "every ending",
}
"""The ones in ``make test``: those whose mechanisms are the most unlike each other's."""

DEATHS = (
    Kill("sample.parameter", 2),
    Kill("capture.after"),
    Kill("report.recorded"),
    Kill("sample.memo"),
    Kill("checkpoint.in_transaction", 2),
    Kill("tell.after_trial"),
    Kill("train.batch", 17),
)
"""In this order: within a draw, with a state in memory, with a verdict that nobody has heard, …"""

MORE_DEATHS = (
    Kill("claim.in_transaction"),
    Kill("sample.memoised"),
    Kill("report.judged"),
    Kill("report.in_transaction", 2),
    Kill("restore.after"),
    Kill("blob.written", 3),
    Kill("checkpoint.committed"),
    Kill("report.applied", 2),
    Kill("finish.recorded"),
    Kill("forget.in_transaction"),
    Kill("forget.committed"),
    Kill("finish.attributes"),
    Kill("tell.in_transaction"),
    Kill("train.batch", 3),
)


def _all() -> list[object]:
    everything: tuple[Variation, ...] = (*SAMPLERS, *PRUNERS, *VARIATIONS)
    unknown = QUICK - {variation.name for variation in everything}
    assert not unknown, unknown
    return [
        pytest.param(variation, id=variation.name, marks=[] if variation.name in QUICK else [pytest.mark.slow])
        for variation in everything
    ]


@pytest.mark.parametrize("variation", _all())
def test_a_study_of_any_kind_that_dies_again_and_again_ends_identical(
    variation: Variation, lab: Laboratory, survived: Check
) -> None:
    """Seven deaths in one study: in drawing, capturing, reporting, saving, telling and training."""
    survived(lab.kill_at(variation, DEATHS))


@pytest.mark.slow
@pytest.mark.parametrize("variation", [*SAMPLERS, *PRUNERS, *VARIATIONS], ids=lambda variation: variation.name)
def test_a_study_of_any_kind_dies_elsewhere_and_ends_identical(
    variation: Variation, lab: Laboratory, survived: Check
) -> None:
    """A dozen more deaths, in the places between those above."""
    survived(lab.kill_at(variation, MORE_DEATHS))
